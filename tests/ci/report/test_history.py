from __future__ import annotations

from dataclasses import replace

from ci.report.history import HistoryCase, HistoryRecord, history_line, make_history_records, read_history
from tests.ci.report.samples import Fault, make_results, mismatch, nights, plan_of

FORWARD = "test_forward_equivalence[smollm2]"


def record(day: int, outcome: str = "passed", **changes: object) -> HistoryRecord:
    case = HistoryCase(FORWARD, outcome, fingerprint="f" if outcome == "failed" else "", used=0.1 * day)
    night = HistoryRecord(
        f"2026-08-{day:02d}T03:17:00+00:00", "smollm2", "passed", f"{day:040d}", (case,), seconds=60.0 * day
    )
    return replace(night, **changes)  # type: ignore[arg-type]


def lines(*records: HistoryRecord) -> str:
    return "".join(map(history_line, records))


def test_a_record_is_one_line_and_survives() -> None:
    known = record(1, libraries={"torch": "2.13.0"}, run_url="https://x\ny")
    assert history_line(known).count("\n") == 1
    assert read_history([history_line(known)]).records == {"smollm2": (known,)}


def test_nights_are_ordered_by_date_across_files() -> None:
    baseline = read_history([lines(record(3)), lines(record(1), record(2))])
    assert [night.date[8:10] for night in baseline.records["smollm2"]] == ["01", "02", "03"]
    latest = baseline.latest_record("smollm2")
    assert latest is not None
    assert latest.date.startswith("2026-08-03")


def test_a_broken_line_is_named_and_hides_no_other() -> None:
    text = lines(record(1)) + '{"date": "2026-\n' + "garbage\n\n" + lines(record(2))
    baseline = read_history([text])
    assert len(baseline.records["smollm2"]) == 2
    assert [problem.split(":")[0] for problem in baseline.problems] == ["history line 2", "history line 3"]


def test_a_record_of_a_later_schema_is_still_read() -> None:
    text = history_line(record(1)).replace('"schema": 1', '"schema": 2, "later": true')
    assert read_history([text]).records["smollm2"]


def test_the_last_good_and_the_first_bad() -> None:
    then = read_history([lines(record(1), record(2), record(3, "failed"), record(4, "failed"))]).history_of(
        "smollm2", FORWARD
    )
    assert then is not None
    assert (then.failing, then.streak, then.nights, then.failures) == (True, 2, 4, 2)
    assert (int(then.last_good), int(then.first_bad), int(then.sha)) == (2, 3, 4)


def test_an_inconclusive_night_does_not_count_for_a_test() -> None:
    baseline = read_history([lines(record(1), record(2, "inconclusive"), record(3, "consequence"))])
    last = baseline.last_case("smollm2", FORWARD)
    assert last is not None
    assert last.used == 0.1
    assert baseline.history_of("smollm2", "test_other[smollm2]") is None
    assert baseline.last_case("other", FORWARD) is None


def test_time_is_estimated_by_the_median_of_the_last_conclusive_nights() -> None:
    days = [record(day) for day in range(1, 10)]
    baseline = read_history([lines(*days, record(10, verdict="neutral"), record(11, seconds=0.0))])
    assert baseline.median_seconds("smollm2") == 60.0 * 6
    assert baseline.median_seconds("smollm2", nights=1) == 60.0 * 9
    assert baseline.median_seconds("unknown") is None


def test_only_the_newest_attempt_of_a_run_counts() -> None:
    url = "https://github.com/o/r/actions/runs/1"
    first, second = record(1, verdict="failed", run_url=url), record(3, run_url=url)
    baseline = read_history([lines(first, record(2, run_url=url + "2"), second)])
    assert [night.date[:10] for night in baseline.records["smollm2"]] == ["2026-08-02", "2026-08-03"]
    assert len(read_history([lines(record(1), record(2))]).records["smollm2"]) == 2


def test_a_run_becomes_one_record_an_entry() -> None:
    plan = plan_of("smollm2", "mixtral")
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    smollm2, mixtral = make_history_records(
        make_results(plan, {FORWARD: mismatch(), "test_conversion[mixtral]": down}), "2026-08-01"
    )
    assert (smollm2.verdict, smollm2.sha, smollm2.model_id) == (
        "failed",
        plan.request.sha,
        "HuggingFaceTB/SmolLM2-135M",
    )
    assert (smollm2.layers, smollm2.device, smollm2.libraries["torch"]) == (2, "cuda", "2.13.0")
    outcomes = {case.name: case.outcome for case in smollm2.cases}
    assert outcomes[FORWARD] == "failed"
    assert {case.outcome for case in mixtral.cases} == {"passed", "inconclusive"}
    assert read_history([history_line(smollm2)]).records["smollm2"] == (smollm2,)


def test_a_missing_test_counts_as_failed_in_history() -> None:
    (smollm2,) = make_history_records(make_results(plan_of("smollm2"), {FORWARD: None}), "2026-08-01")
    assert {case.name: case.outcome for case in smollm2.cases}[FORWARD] == "failed"


def test_nights_of_another_slice_are_another_model() -> None:
    record = HistoryRecord("2026-11-01", "m", "passed", "a" * 40, (HistoryCase("t", "passed"),))
    sliced = replace(record, date="2026-11-02", subset="vocab=8", cases=(HistoryCase("t", "failed", "other"),))
    text = "".join(history_line(night) for night in (record, sliced, replace(record, entry="other", subset="0,3")))
    baseline = read_history([text])
    assert baseline.select_subsets({"m": "", "other": "0,3"}).records == {
        "m": (record,),
        "other": baseline.records["other"],
    }
    [night] = baseline.select_subsets({"m": "vocab=8"}).records["m"]
    assert night == sliced
    assert set(baseline.select_subsets({"m": "vocab=9"}).records) == {"other"}, "what is not asked for stays"
    history = baseline.select_subsets({"m": ""}).history_of("m", "t")
    assert history is not None
    assert not history.failing


def test_an_empty_baseline_is_false() -> None:
    assert not read_history([])
    assert nights(plan_of("smollm2"), {})
