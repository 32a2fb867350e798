"""Every format that Fast-LLM converts, by `hub-tests run` from the Hub to the report: a verdict or a refusal each.

    python -m benchmarks.formats --checkout FAST_LLM [--only dream,apriel2] [--subject reference] [--deep] [--keep DIR]

A stand-in Hub serves one small model of each format (`benchmarks.format_models`). `run` builds the environments where
they are missing, Fast-LLM's with the checkout over it and that of each model's own code, and judges in sandboxes. The
table says what ended red, and whose limit a refusal is; a second one, what each format's exports lose beside their
weights. `--keep` also leaves a history of this one night and the support matrix made of it. With the reference as the
subject only the models' own code is judged, also where Fast-LLM's converter refuses the model. Minutes, and some GB of
disk for the environments.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.format_companions import copy_with_companions
from benchmarks.format_model import FAST_LLM, FormatModel
from benchmarks.format_models import MODELS
from benchmarks.format_probes import PROBES
from benchmarks.format_report import read_reports, show_companions, write_pages
from benchmarks.format_weights import write_model
from ci.environments.description import load_description
from ci.environments.prepare import provide_base
from ci.errors import SubjectError
from ci.report.dashboard import MATRIX
from ci.report.report_files import read_report
from ci.settings import from_environ
from ci.subjects.sandbox import detect_isolation
from tests.standin.library import TOKEN
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import CaseResult, EntryResult

REGISTRY = "models.toml"
SHOWN = 160
"""Characters of a failure's first line in the table."""
OWN_CODE = "the model's code"
COMPARED = "test_forward_equivalence"
MODEL_CODE = ("modelling code", "model's code", "Hugging Face, ", "transformers refuses")
"""What the message of an error says that Hugging Face's side raised."""


@dataclass(frozen=True)
class Row:
    """What one model came to: right, wrong or refused, by whom, and the first line of each red test."""

    checkpoint_format: str
    name: str
    verdict: str
    passed: int
    red: tuple[str, ...]

    @property
    def refused(self) -> bool:
        """Whether nothing was compared."""
        return self.verdict.startswith("refused")

    def show(self) -> str:
        """Return the row of the Markdown table."""
        return f"| {self.checkpoint_format} | {self.name} | {self.verdict} | {self.passed} | {'<br>'.join(self.red)} |"


def judge_models(
    models: Sequence[FormatModel], checkout: Path, folder: Path, *, deep: bool, subject: str = FAST_LLM
) -> list[Row]:
    """Serve the models, run them all, each in its environment, and return a row for each."""
    rows, served = [], list[FormatModel]()
    with HubServer() as hub:
        environ = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": TOKEN,
            "HUB_TESTS_CACHE": str(folder / "store"),
        }
        entries = []
        for model in models:
            try:
                written = _write(model, folder / "models", checkout)
            except SubjectError as problem:
                rows.append(
                    Row(model.checkpoint_format, model.name, f"refused: {OWN_CODE}", 0, (_shorten(str(problem)),))
                )
                continue
            served.append(model)
            published = copy_with_companions(written, folder / "published" / model.name, model.name)
            entries.append(model.make_entry(hub.add(model.model_id, published, gated=model.gated)))
        hub.grant(TOKEN, *(model.model_id for model in served if model.gated))
        registry = folder / REGISTRY
        registry.write_text("\n".join(entries), encoding="utf-8")
        report = folder / "report"
        words = ["--registry", str(registry), *name_subject(subject, checkout)]
        words += ["--report", str(report), *(["--deep"] if deep else [])]
        command = [sys.executable, "-m", "ci", "run", *(model.name for model in served), *words]
        subprocess.run(command, env=environ, stdout=sys.stderr, check=False)
        return rows + [_make_row(model, entry) for model, entry in zip(served, _read_entries(report), strict=True)]


def name_subject(subject: str, checkout: Path) -> list[str]:
    """Return the words of `run` for a subject: Fast-LLM in its environments, or one of this package."""
    if subject == FAST_LLM:
        return ["--subject", subject, "--environment", FAST_LLM, "--subject-source", str(checkout)]
    return ["--subject", subject, "--subject-python", sys.executable, "--subject-path", str(checkout)]


def _write(model: FormatModel, folder: Path, checkout: Path) -> Path:
    """Write a model's repository; where its own code draws the weights, build that code's environment first."""
    python = None
    if model.code_environment:
        description = load_description(model.code_environment)
        python = provide_base(description, from_environ(os.environ), os.environ, _say).python
    return write_model(model, folder, checkout, detect_isolation(), python)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read_entries(report: Path) -> tuple[EntryResult, ...]:
    return read_report(report).entries


def _make_row(model: FormatModel, entry: EntryResult) -> Row:
    red = [case for case in entry.cases if case.outcome in ("failed", "missing", "refused")]
    by_line: dict[str, list[str]] = {}
    for case in red:
        by_line.setdefault(_shorten(case.headline), []).append(f"`{case.name.partition('[')[0]}`")
    lines = tuple(f"{', '.join(dict.fromkeys(names))}: {line}" for line, names in by_line.items())
    passed = sum(case.outcome == "passed" for case in entry.cases)
    return Row(model.checkpoint_format, model.name, _describe_verdict(entry.cases, red), passed, lines)


def _describe_verdict(cases: Sequence[CaseResult], red: Sequence[CaseResult]) -> str:
    """Say whether the forward pass is right; where nothing was compared, whose limit that is."""
    compared = next((case for case in cases if case.step == COMPARED), None)
    if compared and compared.outcome == "passed":
        return "right"
    if compared and compared.evidence and (measures := compared.evidence.measures):
        return "right, and fails for an input" if all(measure.passed for measure in measures) else "wrong"
    if not red:
        return "refused: nothing ran"
    return f"refused: {_find_owner(red[0])}"


def _find_owner(case: CaseResult) -> str:
    """Say whose limit a failure is: that of the code under test, of the model's own code, or of hub-tests."""
    if case.infrastructure:
        return "hub-tests" if case.failure_class in ("remote_code", "not_truncatable", "quantized") else "this machine"
    return OWN_CODE if any(word in case.headline for word in MODEL_CODE) else "Fast-LLM"


def _shorten(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def show_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = "| format | model | forward pass | tests passed | red tests |\n|---|---|---|---:|---|"
    return "\n".join([head, *(row.show() for row in rows)])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 where a format has neither a verdict nor a refusal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__)
    parser.add_argument("--checkout", type=Path, required=True, help="Fast-LLM's checkout")
    parser.add_argument("--only", default="", help="names of models, with commas; default: all")
    parser.add_argument("--subject", default=FAST_LLM, choices=(FAST_LLM, "reference"), help="default: fast_llm")
    parser.add_argument("--deep", action="store_true", help="also test every config key, weight and gradient")
    parser.add_argument("--keep", type=Path, help="directory for models, store and reports; default: removed")
    asked = parser.parse_args(argv)
    names = [name for name in asked.only.split(",") if name]
    if unknown := set(names) - {model.name for model in (*MODELS, *PROBES)}:
        parser.error(f"unknown models {', '.join(sorted(unknown))}")
    models = [model for model in (*MODELS, *PROBES) if model.name in names] if names else list(MODELS)
    with tempfile.TemporaryDirectory(prefix="hub-tests-formats.") as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = judge_models(
            models, asked.checkout.absolute(), folder.absolute(), deep=asked.deep, subject=asked.subject
        )
        reports = read_reports(folder)
        if asked.keep:
            _say(f"Support matrix: {write_pages(reports, folder, folder / REGISTRY) / MATRIX}")
    print(show_table(rows), show_companions(reports), sep="\n\n")
    return 0 if {row.checkpoint_format for row in rows} == {model.checkpoint_format for model in models} else 1


if __name__ == "__main__":
    sys.exit(main())
