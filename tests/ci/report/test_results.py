"""From what came back to verdicts: every way in which a run could look greener than it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.evidence import to_property
from ci.report import words
from ci.report.history import Baseline
from ci.report.junit import Junit, read_junit
from ci.report.markdown import render
from ci.report.outcome import Attempt, CaseResult, Job, Problem, Results
from ci.report.results import exit_code, judge_results
from tests.ci.report import samples
from tests.ci.report.samples import Fault, chain, judged, junit, mismatch, nights, plan_of

FORWARD = "test_forward_equivalence[smollm2]"
CONVERSION = "test_conversion[smollm2]"


def one(faults: dict[str, Fault | None] | None = None, **more: Any) -> Results:
    """A run of one model, in one file."""
    return judged(plan_of("smollm2"), faults, **more)


def case(results: Results, test: str) -> CaseResult:
    found = results.case("smollm2", test)
    assert found is not None
    return found


def attempts(faults: dict[str, Fault | None] | None = None, *, number: int = 1, **more: Any) -> Attempt:
    return Attempt(number, read_junit(junit(plan_of("smollm2"), faults)), **more)


def run(*found: Attempt, job: Job | None = None, **more: Any) -> Results:
    """A run of one model as the matrix leaves it."""
    jobs = {"smollm2": job} if job else None
    return judge_results(plan_of("smollm2"), {"smollm2": found} if found else {}, jobs, **more)


def test_all_that_was_planned_came_back_green() -> None:
    results = one()
    assert (results.verdict, exit_code(results)) == ("passed", 0)
    assert results.totals.passed == results.totals.tests == 7
    assert results.entries[0].label == ""
    assert results.entries[0].notes == ()


@pytest.mark.parametrize("test", plan_of("smollm2").entries[0].tests)
def test_any_planned_test_that_is_missing_is_red(test: str) -> None:
    results = one({test: None})
    assert (results.verdict, exit_code(results)) == ("failed", 1)
    assert case(results, test).outcome == "missing"
    assert results.entries[0].label == "6 of 7 planned tests came back"


@pytest.mark.parametrize("content", [b"", b"<testsuites/>", b"<", b"<!DOCTYPE a><a/>"])
def test_nothing_is_never_green(content: bytes) -> None:
    for results in (
        judge_results(plan_of("smollm2"), read_junit(content)),
        run(Attempt(1, read_junit(content))),
        run(Attempt(1, read_junit(content)), job=Job("success")),
        run(),
        run(job=Job("success")),
    ):
        assert exit_code(results) == 1
        assert results.entries[0].label
        assert {found.outcome for found in results.entries[0].cases} == {"missing"}


def test_everything_skipped_is_not_green() -> None:
    reason = "extra slow: fetches real Hub models; run with --run-extra-slow"
    tests = plan_of("smollm2").entries[0].tests
    results = one({test: Fault("skipped", reason, reason, {"raw": ""}) for test in tests})
    assert exit_code(results) == 1
    assert case(results, CONVERSION).headline == f"skipped: {reason}"


def test_a_truncated_file_is_red_though_all_that_it_holds_passed() -> None:
    whole = junit(plan_of("smollm2"))
    for content in (whole[: len(whole) // 2], whole[:-20]):
        results = run(Attempt(1, read_junit(content)))
        assert exit_code(results) == 1
        assert "cut off" in results.entries[0].label
        assert results.totals.passed > 0


def test_a_failure_names_its_class_and_what_follows_from_it_is_no_cause() -> None:
    reason = "KeyError: model.layers.0.mlp.gate_proj.weight"
    later = plan_of("smollm2").entries[0].tests[2:]
    fault = Fault("failure", reason, reason, {"failure_class": "missing_tensor"})
    results = one({CONVERSION: fault, **chain("smollm2", "test_conversion", reason, steps=later)})
    assert case(results, CONVERSION).failure_class == "missing_tensor"
    assert results.totals.consequence == len(later)
    assert [cause.cases for cause in results.causes] == [(("smollm2", CONVERSION),)]


def test_a_skip_that_blames_a_test_which_passed_is_red() -> None:
    results = one(dict(chain("smollm2", "test_conversion", "forged", steps=(FORWARD,))))
    assert case(results, FORWARD).outcome == "failed"
    assert exit_code(results) == 1


def test_a_variant_that_did_not_run_is_shown_and_does_not_pass_for_the_others() -> None:
    fault = Fault("skipped", "variant did not run: x", "", {"failure_class": "variant_did_not_run"})
    tests = [test for test in plan_of("smollm2").entries[0].tests if "implementation" in test]
    some = one({tests[0]: fault})
    assert (exit_code(some), case(some, tests[0]).outcome) == (0, "did_not_run")
    assert "did not run" in words.title(some)
    none = one(dict.fromkeys(tests, fault))
    assert exit_code(none) == 3
    assert none.entries[0].label == "nothing ran for test_implementation"


@pytest.mark.parametrize(
    ("failure_class", "code"),
    [
        *(("hub_unavailable", 3), ("gated", 3), ("environment", 3), ("crash", 1)),
        *(("timeout", 1), ("out_of_memory", 1), ("unsupported", 1), ("other", 1)),
    ],
)
def test_infrastructure_is_neutral_and_all_else_is_red(failure_class: str, code: int) -> None:
    results = one({FORWARD: Fault("failure", "x", "x", {"failure_class": failure_class})})
    assert exit_code(results) == code
    assert case(results, FORWARD).infrastructure == (code == 3)


def test_a_real_failure_beside_an_infrastructure_one_is_red() -> None:
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    assert exit_code(one({FORWARD: mismatch(), CONVERSION: down})) == 1
    assert exit_code(judged(plan_of(), {FORWARD: down, "test_conversion[mistral]": mismatch()})) == 1


def test_a_model_without_an_answer_beside_one_that_passed_is_not_green() -> None:
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    results = judged(plan_of("smollm2", "mistral"), {FORWARD: down})
    assert [entry.verdict for entry in results.entries] == ["neutral", "passed"]
    assert (results.verdict, exit_code(results)) == ("neutral", 3)
    assert words.title(results) == "No answer for 1 of 2 models"


def with_forward(evidence: str) -> bytes:
    """A green file in which the forward test passed with this evidence."""
    forged = samples.with_property(FORWARD, evidence).encode()
    return junit(plan_of("smollm2"), {FORWARD: None}).replace(b"</testsuite>", forged + b"</testsuite>")


def test_a_pass_whose_own_evidence_says_otherwise_is_red() -> None:
    hidden = {"measures": samples.measures(wrong_from="logits")}  # beyond its limit, while the worst is called fine
    for changes in ({"failure_class": "numeric_mismatch"}, samples.wrong_forward(), hidden):
        value = to_property(samples.evidence_of(FORWARD, "smollm2", **changes))[1]
        assert exit_code(judge_results(plan_of("smollm2"), read_junit(with_forward(value)))) == 1


@pytest.mark.parametrize(
    "evidence",
    [
        "{",
        '{"model": "mixtral", "step": "test_forward_equivalence"}',
        '{"model": "smollm2", "step": "test_conversion"}',
    ],
)
def test_a_pass_with_evidence_of_another_test_is_red(evidence: str) -> None:
    results = judge_results(plan_of("smollm2"), read_junit(with_forward(evidence)))
    assert exit_code(results) == 1
    assert "evidence" in case(results, FORWARD).headline


def test_of_two_cases_with_one_name_the_worse_counts() -> None:
    for order in (("<failure message='x'/>", ""), ("", "<failure message='x'/>")):
        twins = "".join(f'<testcase name="{FORWARD}">{inner}</testcase>' for inner in order)
        content = junit(plan_of("smollm2"), {FORWARD: None}).replace(b"</testsuite>", twins.encode() + b"</testsuite>")
        assert exit_code(judge_results(plan_of("smollm2"), read_junit(content))) == 1


def test_an_unplanned_pass_counts_for_nothing_and_an_unplanned_failure_counts() -> None:
    extra = "test_mine[smollm2]"
    passed = junit(plan_of("smollm2")).replace(b"</testsuite>", f'<testcase name="{extra}"/></testsuite>'.encode())
    results = judge_results(plan_of("smollm2"), read_junit(passed))
    assert exit_code(results) == 0
    assert "not planned" in results.entries[0].notes[0]
    assert exit_code(one({extra: Fault(evidence={"raw": ""})})) == 1


def test_a_collection_error_concerns_every_model() -> None:
    plan = plan_of("smollm2", "mistral")
    error = '<error message="collection failure">E   ImportError: x</error>'
    broken = f'<testcase classname="" name="tests.integration.test_hub_integration">{error}</testcase>'
    results = judge_results(plan, read_junit(samples.document(broken)))
    assert {cause.failure_class for cause in results.causes} == {"collection", "missing_result"}
    assert results.causes[0].failure_class == "collection"
    assert results.causes[0].title == "ImportError: x"
    assert results.causes[0].models == ("smollm2", "mistral")


def test_a_crashed_worker_names_the_test_it_was_running() -> None:
    message = f"failed on setup with \"worker 'gw1' crashed while running 'a.py::{FORWARD}'\""
    results = one({FORWARD: Fault("error", message, "x", {"raw": ""})})
    assert case(results, FORWARD).failure_class == "crash"
    assert results.causes[0].title == f"the process running {FORWARD} died"


def test_a_crash_without_a_result_names_the_test_that_was_running() -> None:
    results = run(Attempt(1, Junit(problem="no result file", missing=True), running=(FORWARD,)), job=Job("failure"))
    assert case(results, FORWARD).failure_class == "crash"
    assert case(results, FORWARD).headline == f"the process running {FORWARD} died"
    assert case(results, CONVERSION).headline == "no result file, the job ended as failure"


@pytest.mark.parametrize(
    ("job", "code", "label"),
    [
        (Job("success"), 0, ""),
        (Job("failure"), 1, "the job ended as failure, yet every test passed"),
        (Job("timed_out"), 1, "the job ran out of time after its tests had passed"),
        (Job("cancelled"), 3, "the job was cancelled after its tests had passed"),
        (Job("skipped"), 1, "the job ended as skipped, yet every test passed"),
        (Job(None), 1, "the job ended as None, yet every test passed"),
        (Job(None, status="in_progress"), 3, "the job is still in progress"),
    ],
)
def test_the_job_has_the_last_word_over_a_green_file(job: Job, code: int, label: str) -> None:
    results = run(attempts(), job=job)
    assert exit_code(results) == code
    assert results.entries[0].label == label


@pytest.mark.parametrize(
    ("job", "code", "label"),
    [
        (Job("failure"), 1, "no result file, the job ended as failure"),
        (Job("success"), 1, "no result file, the job ended as success"),
        (Job("skipped"), 1, "no result file, the job ended as skipped"),
        (Job("timed_out"), 1, "the job ran out of time"),
        (Job("cancelled"), 3, "the job was cancelled"),
        (Job(None, status="in_progress"), 3, "the job is still in progress"),
    ],
)
def test_a_missing_file_is_explained_by_its_job(job: Job, code: int, label: str) -> None:
    results = run(job=job)
    assert exit_code(results) == code
    assert results.entries[0].label == label


def test_a_job_that_says_success_over_a_red_file_is_told_apart() -> None:
    results = run(attempts({FORWARD: mismatch()}), job=Job("success"))
    assert exit_code(results) == 1
    assert results.entries[0].notes == ("the job says success, its result file says failed: the file counts",)


def test_results_without_a_job_are_not_believed() -> None:
    results = judge_results(plan_of("smollm2"), {"smollm2": (attempts(),)}, {})
    assert exit_code(results) == 1
    assert results.entries[0].label == "no job ran for this entry, yet results came back"


def test_a_known_problem_explains_a_missing_entry_and_blames_nobody() -> None:
    results = run(problems={"smollm2": Problem("hub_unavailable", "the Hub answered 503")}, job=Job("skipped"))
    assert exit_code(results) == 3
    assert results.entries[0].label == "the Hub answered 503"
    assert exit_code(run(attempts({FORWARD: mismatch()}), problems={"smollm2": Problem("gated", "x")})) == 1


def test_the_newest_attempt_counts_and_the_older_failure_stays_as_evidence() -> None:
    results = run(attempts({FORWARD: mismatch()}), attempts(number=2), job=Job("success", attempt=2))
    assert exit_code(results) == 0
    assert case(results, FORWARD).earlier == ("attempt 1: failed",)
    assert results.totals.flaky == 1
    back = run(attempts(number=2), attempts({FORWARD: mismatch()}, number=3), job=Job("failure", attempt=3))
    assert exit_code(back) == 1


def test_the_order_of_attempts_on_disk_does_not_matter() -> None:
    assert exit_code(run(attempts(number=2), attempts({FORWARD: mismatch()}))) == 0


def test_a_newer_attempt_that_left_nothing_is_not_covered_by_an_older_green_one() -> None:
    results = run(attempts(), job=Job("failure", attempt=2))
    assert exit_code(results) == 1
    assert results.entries[0].label == "no result file, the job ended as failure"


def test_a_suite_that_was_ended_by_its_time_limit_is_no_crash() -> None:
    """The test that was running is named; those that were not reached are of the same class; all of it is red."""
    left: dict[str, Fault | None] = {FORWARD: None, "test_hub_model_conversion[smollm2]": None}
    results = run(attempts(left, running=(FORWARD,), ended="time limit of 8400 s"), job=Job("failure"))
    assert exit_code(results) == 1
    assert results.entries[0].label == "the suite ran out of time: time limit of 8400 s"
    assert (
        case(results, FORWARD).headline == f"{FORWARD} was running when the suite ran out of time: time limit of 8400 s"
    )
    assert {cause.failure_class for cause in results.causes} == {"timeout"}
    assert exit_code(run(attempts(ended="time limit of 8400 s"), job=Job("success"))) == 0


def test_an_attempt_that_github_does_not_know_of_is_not_believed() -> None:
    results = run(attempts({FORWARD: mismatch()}), attempts(number=2), job=Job("failure"))
    assert exit_code(results) == 1
    assert case(results, FORWARD).outcome == "failed"
    assert "results of attempt 2 came back, but its last one was 1: ignored" in results.entries[0].notes
    assert exit_code(run(attempts(number=2), job=Job("success"))) == 1


def test_an_older_attempt_that_crashed_is_evidence_too() -> None:
    crashed = Attempt(1, Junit(problem="no result file", missing=True), running=(FORWARD,))
    results = run(crashed, attempts(number=2), job=Job("success", attempt=2))
    assert exit_code(results) == 0
    assert case(results, FORWARD).earlier == ("attempt 1: crashed",)
    assert results.totals.flaky == 1


def test_results_that_the_plan_does_not_hold_are_noted() -> None:
    results = judge_results(plan_of("smollm2"), {"smollm2": (attempts(),), "evil": (attempts(),)})
    assert exit_code(results) == 0
    assert results.notes == ("results of 'evil' came back, which the plan does not hold: ignored",)


def test_a_result_file_speaks_for_its_own_entry_only() -> None:
    plan = plan_of("smollm2", "mistral")
    both = read_junit(junit(plan))
    results = judge_results(plan, {"smollm2": (Attempt(1, both),)})
    assert [entry.verdict for entry in results.entries] == ["passed", "failed"]


def test_the_same_cause_in_three_models_is_one_cause() -> None:
    results = samples.failing()
    assert len(results.causes) == 1
    assert results.causes[0].models == ("smollm2", "mistral", "mixtral")


def test_what_models_say_of_themselves_does_not_part_a_cause() -> None:
    faults: dict[str, Fault | None] = {
        f"test_conversion[{name}]": Fault("failure", f"{model.model_id}: no converter for {name}", "x", {"raw": ""})
        for name, model in samples.MODELS.items()
    }
    (cause,) = judged(plan_of(), faults).causes
    assert cause.models == ("smollm2", "mistral", "mixtral")


def test_another_operation_is_another_cause() -> None:
    plan = plan_of()
    mlp = replace(mismatch(), evidence={**samples.wrong_forward(operation="mlp"), "diagnosis": "layer 0, mlp: wrong"})
    results = judged(plan, {FORWARD: mismatch(), "test_forward_equivalence[mistral]": mlp})
    assert len(results.causes) == 2


def test_the_baseline_tells_new_known_different_and_fixed() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    before = nights(plan, {}, {FORWARD: mismatch(), CONVERSION: oom})
    results = judged(plan, {FORWARD: mismatch(), "test_download_and_truncate[smollm2]": oom}, baseline=before)
    assert case(results, FORWARD).change == "known"
    assert case(results, FORWARD).last_good.startswith("01")
    assert case(results, FORWARD).first_bad.startswith("02")
    assert case(results, FORWARD).streak == 1
    assert case(results, CONVERSION).change == "fixed"
    assert case(results, "test_download_and_truncate[smollm2]").change == "new"
    assert case(results, "test_hub_model_conversion[smollm2]").change is None
    assert case(judged(plan, {FORWARD: oom}, baseline=before), FORWARD).change == "different"
    assert exit_code(results) == 1
    assert results.baseline.startswith("02")


def test_a_new_failure_that_main_has_seen_before_says_so() -> None:
    plan = plan_of("smollm2")
    results = one({FORWARD: mismatch()}, baseline=nights(plan, {FORWARD: mismatch()}, {}, {}))
    assert words.change(case(results, FORWARD)).endswith(", failed in 1 of 3 nights before")
    assert words.state(results.causes[0], [case(results, FORWARD)]).startswith("new, last good 03")


def test_the_verdict_says_whether_anything_is_new() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    before = nights(plan, {FORWARD: mismatch(), CONVERSION: oom})
    known = judged(plan, {FORWARD: mismatch()}, baseline=before)
    assert words.title(known) == "Failed: 1 of 1 model, 1 cause (none new)"
    assert words.fixed(known) == [CONVERSION]
    assert words.title(judged(plan, {FORWARD: oom}, baseline=before)) == "Failed: 1 of 1 model, 1 cause (1 new)"
    assert words.title(judged(plan, {FORWARD: oom})) == "Failed: 1 of 1 model, 1 cause"


def test_causes_of_this_change_come_first() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    results = judged(plan, {FORWARD: mismatch(), CONVERSION: oom}, baseline=nights(plan, {CONVERSION: oom}))
    assert [cause.change for cause in results.causes] == ["new", "known"]


def test_margins_are_known_then_and_now() -> None:
    results = one(baseline=nights(plan_of("smollm2"), {}))
    assert case(results, FORWARD).used == case(results, FORWARD).used_before == pytest.approx(0.4286, abs=1e-3)


def test_without_history_nothing_is_called_new() -> None:
    assert case(one({FORWARD: mismatch()}, baseline=Baseline()), FORWARD).change is None
    assert one({FORWARD: mismatch()}, baseline=Baseline()).baseline == ""


def test_infrastructure_is_never_called_new() -> None:
    down = Fault("failure", "x", "x", {"failure_class": "hub_unavailable"})
    assert case(one({FORWARD: down}, baseline=nights(plan_of("smollm2"), {})), FORWARD).change is None


def test_what_moved_outside_of_the_subject_is_told() -> None:
    plan = plan_of("smollm2")
    newer = {"libraries": {"torch": "2.14.0", "transformers": "5.23.0"}, "failure_class": "numeric_mismatch"}
    everywhere = {test: Fault(evidence=newer) for test in plan.entries[0].tests}
    results = judged(plan, everywhere, baseline=nights(plan, {}))
    assert results.entries[0].drift == {"torch": "2.13.0 → 2.14.0"}
    assert "- moved as well since the last night: torch 2.13.0 → 2.14.0\n" in render(results)


def test_a_large_run_keeps_only_the_worst_measures_of_passing_tests() -> None:
    models = {f"m{n:02d}": replace(samples.MODELS["mixtral"], name=f"m{n:02d}") for n in range(26)}
    failing = "test_moe_implementation[looped-m25]"
    results = judged(plan_of("*", models=models), {failing: mismatch(moe=True)})
    kept = [sum(len(c.evidence.measures) for c in entry.cases if c.evidence) for entry in results.entries]
    assert kept[0] == kept[23] > 0
    assert kept[24] == 0
    assert kept[25] == len(samples.measures(moe=True))
    assert all(c.evidence.worst for c in results.entries[24].cases if c.evidence and "implementation" in c.name)
    assert results.entries[24].cases[2].used == results.entries[0].cases[2].used
