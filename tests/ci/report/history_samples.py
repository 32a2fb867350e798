"""A synthetic history of many nights: green models, one that drifts, one that broke, and some without an answer."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import date, timedelta

from ci.report.history import Baseline, HistoryCase, HistoryRecord
from ci.report.support_matrix import DEEP_ONLY, CellState, MatrixCell, SupportMatrix

DRIFT_FROM, BROKEN_FROM = 31, 38
MODELS = ("smollm2", "mistral", "mixtral", "qwen2-05b", "llama3-8b", "qwen2-7b")
HEADLINE = "layer 1, attention [conversion]: the rotary embedding is wrong"
START = date(2026, 10, 1)


def make_sha(*parts: object) -> str:
    return hashlib.sha1(repr(parts).encode()).hexdigest()


def make_night(name: str, at: int, chosen: random.Random) -> HistoryRecord:
    """One night of a model: mixtral broke, qwen2-05b drifts while it passes, llama3-8b sometimes has no runner."""
    broken, drifts = name == "mixtral" and at >= BROKEN_FROM, name == "qwen2-05b" and at >= DRIFT_FROM
    neutral = name == "llama3-8b" and at % 11 == 4
    used = 3.9e3 if broken else (0.42 if drifts else 0.1 + MODELS.index(name) * 0.02) * chosen.uniform(0.97, 1.03)
    forward = f"test_forward_equivalence[{name}]"
    failed = HistoryCase(forward, "failed", "numeric_mismatch", "f1", used, 40.0, headline=HEADLINE)
    passed = HistoryCase(forward, "passed", used=used, seconds=40.0)
    nothing = HistoryCase(forward, "inconclusive", "environment")
    return HistoryRecord(
        date=f"{START + timedelta(at)}T03:17:00Z",
        entry=name,
        verdict="neutral" if neutral else "failed" if broken else "passed",
        sha=make_sha("commit", at // 3 if at < BROKEN_FROM else at // 3 + 1),
        cases=(nothing if neutral else failed if broken else passed,),
        run_url=f"https://github.com/org/framework/actions/runs/{at + 1}",
        model_id=f"org/{name}",
        revision=make_sha("revision", name, at >= 20 and name == "smollm2"),
        layers=2,
        subject="fast_llm",
        device="cuda",
        libraries={"torch": "2.13.0" if at >= DRIFT_FROM else "2.12.1", "transformers": "5.23.0"},
        seconds=80.0 + 11 * MODELS.index(name) + chosen.uniform(-4, 4),
        queued=12.0 + chosen.uniform(0, 20),
    )


def make_history(nights: int = 45, models: tuple[str, ...] = MODELS) -> Baseline:
    """Return a history of so many nights."""
    chosen = random.Random(1)
    return Baseline({name: tuple(make_night(name, at, chosen) for at in range(nights)) for name in models})


def make_many(models: int = 256, nights: int = 30) -> Baseline:
    """Return a history of many models."""
    few = make_history(nights)
    many = {f"model-{number:03d}": few.records[MODELS[number % len(MODELS)]] for number in range(models)}
    return Baseline({name: tuple(replace(night, entry=name) for night in known) for name, known in many.items()})


def make_matrix() -> SupportMatrix:
    """Return a matrix with passed, failed, stale and empty cells, and a format without a model."""
    cells = []
    for at, name in enumerate(MODELS):
        of = "mixtral" if name == "mixtral" else "qwen2" if "qwen" in name else "llama"
        known = MatrixCell(of, name, f"org/{name}", "forward", date="2026-11-14T03:00:00Z")
        for dtype in ("float32", "bfloat16"):
            wrong = name == "mixtral" and dtype == "float32"
            state: CellState = "failed" if wrong else "passed"
            margin, why = (4000.0, "numeric mismatch") if wrong else (0.1 + at / 20, "")
            cells.append(replace(known, dtype=dtype, state=state, margin=margin, reason=why))
            old = "9 days old" if at == 4 else ""
            sdpa = replace(known, check="variant", variant="attention=sdpa", dtype=dtype, stale=old)
            cells.append(replace(sdpa, state="passed", margin=0.2))
        if name == "mixtral":
            cells.append(replace(known, check="variant", variant="moe=dropless", reason="needs triton"))
        cells.append(replace(known, check="export", state="passed", margin=0.0))
    cells.append(MatrixCell("apriel2", "", "", "forward", reason="no model of this format is in the registry"))
    return SupportMatrix("fast_llm", "2026-11-15T04:00:00Z", tuple(cells))


REFUSED = "Fast-LLM, llama to fast_llm: ValueError: HF config has unknown key 'rope_interleaved'"
DTYPES = ("float32", "bfloat16")


def make_formats_matrix() -> SupportMatrix:
    """Return a matrix as of one run of many formats: one right, one wrong, one refused, and an export that crashed."""
    night = MatrixCell("", "", "", "forward", date="2026-11-27T03:00:00Z", sha="7d61a1b" * 5, device="cpu")
    right, wrong, dense, refused = (
        replace(night, checkpoint_format=f"format{at}", entry=name, model_id=f"o/{name}")
        for at, name in enumerate(("right", "wrong", "dense", "refused"))
    )
    cells = []
    for model in (right, wrong, dense):
        state: CellState = "failed" if model is wrong else "passed"
        headline, margin = (HEADLINE, 2e5) if model is wrong else ("", 0.4)
        shown = replace(model, state=state, headline=headline, margin=margin)
        looped = replace(model, check="variant", variant="moe=looped")
        cells += [replace(shown, dtype=dtype) for dtype in DTYPES]
        if model is dense:
            cells.append(replace(looped, date="", reason="the subject does not run it here"))
            cells.append(replace(model, check="export", state="failed", headline="AttributeError: " + "x" * 90))
        else:
            cells += [replace(looped, state=state, margin=margin, dtype=dtype) for dtype in DTYPES]
            cells.append(replace(model, check="export", state="passed", margin=0.1))
    untested = replace(refused, date="", reason="an earlier test failed", headline=REFUSED)
    layout = replace(untested, check="variant", variant="layout=tp2", reason=DEEP_ONLY, headline="")
    cells += [untested, layout, replace(untested, check="export")]
    return SupportMatrix("fast_llm", "2026-11-27T04:00:00Z", tuple(cells), nights=1)
