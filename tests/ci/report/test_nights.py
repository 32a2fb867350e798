"""What the nights say: drift while green with what changed then, and findings since their first night."""

from __future__ import annotations

from dataclasses import replace

from ci.report.history import Baseline, HistoryCase, HistoryRecord
from ci.report.nights import list_changes, list_findings, list_models
from tests.ci.report.history_samples import BROKEN_FROM, DRIFT_FROM, HEADLINE, MODELS, make_history


def test_a_drift_names_its_night_and_what_changed() -> None:
    models = {model.name: model for model in list_models(make_history())}
    drift = models["qwen2-05b"].drift
    assert drift.startswith("error / limit moved from 16 % to 42 % on 2026-11-01, when ")
    assert "torch 2.12.1 → 2.13.0" in drift
    assert DRIFT_FROM == 31
    assert not any(models[name].drift for name in MODELS if name != "qwen2-05b")


def test_a_drift_that_went_away_or_failed_is_none() -> None:
    history = make_history()
    known = history.records["qwen2-05b"]
    back = (*known, *(replace(night, date=f"2026-12-{at + 1:02d}") for at, night in enumerate(known[:10])))
    for records in (back, (*known, replace(known[-1], verdict="failed")), known[: DRIFT_FROM + 1][:3]):
        (model,) = list_models(Baseline({"qwen2-05b": records}))
        assert model.drift == ""


def test_a_finding_counts_its_nights() -> None:
    (finding,) = list_findings(make_history())
    assert (finding.headline, finding.failure_class) == (HEADLINE, "numeric mismatch")
    assert (finding.nights, finding.since) == (45 - BROKEN_FROM, "2026-11-08")
    assert finding.tests == ("test_forward_equivalence[mixtral]",)
    assert list_findings(make_history(BROKEN_FROM)) == ()


def test_what_changed_between_two_nights() -> None:
    before = HistoryRecord("2026-01-01", "m", "passed", "a" * 40, (), revision="b" * 40, libraries={"torch": "1"})
    now = replace(before, sha="c" * 40, libraries={"torch": "2", "triton": "3"})
    assert list_changes(before, now) == (f"commit {'a' * 12} → {'c' * 12}", "torch 1 → 2")
    assert list_changes(before, before) == ()


def test_medians_leave_nights_without_a_job_out() -> None:
    cases = (HistoryCase("t", "passed", used=0.1),)
    nights = [
        HistoryRecord(f"2026-01-0{n}", "m", "passed", "a", cases, seconds=s) for n, s in ((1, 0), (2, 10), (3, 30))
    ]
    (model,) = list_models(Baseline({"m": tuple(nights)}))
    assert model.seconds == 20


def test_nights_of_another_part_of_the_model_are_left_out() -> None:
    history = make_history()
    known = {name: list(records) for name, records in history.records.items()}
    known["mixtral"][-1] = replace(known["mixtral"][-1], subset="vocab=9")
    known["qwen2-05b"] = [
        replace(r, subset="" if n < DRIFT_FROM else "vocab=9") for n, r in enumerate(known["qwen2-05b"])
    ]
    sliced = Baseline({name: tuple(records) for name, records in known.items()})
    models = {model.name: model for model in list_models(sliced)}
    assert len(models["mixtral"].nights) == 1
    assert models["qwen2-05b"].drift == "", "a smaller model has other margins"
    (finding,) = list_findings(sliced)
    assert (finding.nights, finding.since) == (1, known["mixtral"][-1].date[:10])
