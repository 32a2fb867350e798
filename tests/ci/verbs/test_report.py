"""`report`: results and jobs against the plan, in Actions and from files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError
from ci.github.workflow_runs import SUBJECT_STEP
from ci.report.history import history_line
from ci.verbs.report import make_report
from tests.ci.github.samples import job
from tests.ci.report import samples

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from tests.e2e.fake_github import Request, State


WAITING = {"status": "queued", "conclusion": None, "runner_name": None, "completed_at": None}


def test_a_job_without_a_machine_is_nobodys_fault(context: Context, state: State, tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    state.jobs[777] = [job("test smollm2", 1, status="completed", conclusion="cancelled", runner_name=None)]
    run_results = make_report(made, tmp_path / "results", tmp_path / "out", context=context)
    assert run_results.verdict == "neutral"
    state.jobs[777] = [job("test smollm2", 1, **WAITING)]
    run_results = make_report(made, tmp_path / "results", tmp_path / "out", context=context)
    assert run_results.verdict == "neutral"
    assert "no machine took this job" in run_results.causes[0].title


@pytest.mark.parametrize(
    ("conclusion", "status", "said"),
    [
        ("failure", "completed", "the job that fetches the checkpoints ended as failure"),
        ("cancelled", "completed", "the job that fetches the checkpoints ended as cancelled"),
        (None, "queued", "the job that fetches the checkpoints is queued"),
        ("success", "completed", "the run was cancelled before the first test job"),
    ],
)
def test_a_fetch_that_broke_is_nobodys_fault(
    context: Context, state: State, tmp_path: Path, conclusion: str | None, status: str, said: str
) -> None:
    """No test job was made, and nothing was handed over that says why."""
    state.jobs[777] = [job("run / fetch", 1, conclusion=conclusion, status=status)]
    run_results = make_report(samples.plan_of("smollm2"), tmp_path / "results", tmp_path / "out", context=context)
    assert run_results.verdict == "neutral"
    assert run_results.causes[0].title == f"nothing was tested: {said}"


@pytest.mark.parametrize("tests", [[], [{"steps": [{"name": "Set up job", "conclusion": "success"}]}]])
@pytest.mark.parametrize("conclusion", ["failure", "cancelled", None])
def test_a_private_subject_that_was_not_handed_over_is_told(
    context: Context, state: State, tmp_path: Path, conclusion: str | None, tests: list[dict[str, Any]]
) -> None:
    """The test jobs start without it, and end before their suite."""
    status = "completed" if conclusion else "in_progress"
    pack = job("run / subject", 1, conclusion=conclusion, status=status)
    broken = [job("run / test smollm2", 3, conclusion="failure", **more) for more in tests]
    state.jobs[777] = [pack, job("run / fetch", 2), *broken]
    run_results = make_report(samples.plan_of("smollm2"), tmp_path / "results", tmp_path / "out", context=context)
    assert run_results.verdict == "neutral"
    said = f"ended as {conclusion}" if conclusion else "is in progress"
    assert run_results.causes[0].title == f"nothing was tested: the job that hands over the subject {said}"


def test_a_subject_that_nobody_has_to_hand_over_is_no_problem(context: Context, state: State, tmp_path: Path) -> None:
    state.jobs[777] = [
        job("run / subject", 1, conclusion="skipped"),
        job("run / fetch", 2, conclusion="failure"),
    ]
    run_results = make_report(samples.plan_of("smollm2"), tmp_path / "results", tmp_path / "out", context=context)
    assert run_results.causes[0].title == "nothing was tested: the job that fetches the checkpoints ended as failure"


def test_an_entry_without_a_job_beside_others_that_have_one_is_red(
    context: Context, state: State, tmp_path: Path
) -> None:
    state.jobs[777] = [job("run / fetch", 1), job("run / test smollm2", 2)]
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(samples.plan_of("smollm2")))
    made = samples.plan_of("smollm2", "mistral")
    run_results = make_report(made, tmp_path / "results", tmp_path / "out", context=context)
    assert [entry.verdict for entry in run_results.entries] == ["passed", "failed"]


STEPS = ("Set up job", "Set up hub-tests", "Admit only the planned commit", SUBJECT_STEP, "Hand over what there is")


@pytest.mark.parametrize(
    ("broken", "verdict", "said"),
    [
        (1, "neutral", "no code of the subject was run: the job failed in its step 'Set up hub-tests'"),
        (2, "neutral", "no code of the subject was run: the job failed in its step 'Admit only the planned commit'"),
        (3, "failed", "no result file, the job's conclusion is 'failure'"),
        (4, "failed", "no result file, the job's conclusion is 'failure'"),
    ],
)
def test_a_job_that_broke_before_anything_of_the_subject_ran_is_nobodys_fault(
    context: Context, state: State, tmp_path: Path, broken: int, verdict: str, said: str
) -> None:
    ends = ["success"] * broken + ["failure"] + ["skipped"] * 9
    steps = [
        {"name": name, "status": "completed", "conclusion": end, "number": number}
        for number, (name, end) in enumerate(zip(STEPS, ends, strict=False), start=1)
    ]
    state.jobs[777] = [
        job("run / test smollm2", 1, conclusion="failure", steps=steps),
        job("run / fetch", 2),
    ]
    run_results = make_report(samples.plan_of("smollm2"), tmp_path / "results", tmp_path / "out", context=context)
    assert (run_results.verdict, run_results.causes[0].title) == (verdict, said)


def test_a_green_file_does_not_outweigh_a_red_job(context: Context, state: State, tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(made))
    state.jobs[777] = [job("run / test smollm2", 1, conclusion="failure")]
    assert make_report(made, tmp_path / "results", tmp_path / "out", context=context).verdict == "failed"
    assert make_report(made, tmp_path / "results", tmp_path / "out").verdict == "passed"


def test_a_listing_that_lags_behind_is_asked_for_again(context: Context, state: State, tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(made))
    late = job("run / test smollm2", 1, status="in_progress", conclusion=None, completed_at=None)
    state.jobs[777] = [late]
    asked: list[str] = []

    def end_it(request: Request) -> None:
        asked.append(request.path)
        if len(asked) == 3:
            state.jobs[777] = [job("run / test smollm2", 1)]

    state.before = end_it
    assert make_report(made, tmp_path / "results", tmp_path / "out", context=context).verdict == "passed"
    state.jobs[777] = [late]
    assert make_report(made, tmp_path / "results", tmp_path / "out", context=context).verdict == "neutral"


def test_only_the_failed_job_runs_again(context: Context, state: State, tmp_path: Path) -> None:
    """Two artifacts of the entry that failed and one of the other, whose job GitHub lists again as it was."""
    made = samples.plan_of("smollm2", "mistral")
    bad = {"test_forward_equivalence[smollm2]": samples.mismatch()}
    for name, faults in (("smollm2.1", bad), ("smollm2.2", {}), ("mistral.1", {})):
        folder = tmp_path / f"results/hub-tests-{name}"
        folder.mkdir(parents=True)
        (folder / "junit.xml").write_bytes(samples.junit(samples.plan_of(name.split(".")[0]), faults))
    later = {"run_attempt": 2, "started_at": "2026-01-02T04:00:00Z", "completed_at": "2026-01-02T04:01:00Z"}
    state.jobs[777] = [
        job("run / test smollm2", 1, conclusion="failure"),
        job("run / test mistral", 2),
    ]
    state.jobs[777] += [
        job("run / test smollm2", 3, **later),
        job("run / test mistral", 4, run_attempt=2),
    ]
    run_results = make_report(made, tmp_path / "results", tmp_path / "out", context=replace(context, run_attempt=2))
    assert run_results.verdict == "passed"
    assert [entry.attempt for entry in run_results.entries] == [2, 1]
    assert run_results.totals.flaky == 1


def test_a_baseline_from_files(tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    nights = samples.nights(made, {}).records["smollm2"]
    (tmp_path / "history").mkdir()
    (tmp_path / "history/a.jsonl").write_text("".join(map(history_line, nights)))
    folder = tmp_path / "results/smollm2"
    folder.mkdir(parents=True)
    bad = {"test_forward_equivalence[smollm2]": samples.mismatch()}
    (folder / "junit.xml").write_bytes(samples.junit(made, bad))
    run_results = make_report(made, tmp_path / "results", tmp_path / "out", baseline=tmp_path / "history")
    assert run_results.causes[0].change == "new"
    with pytest.raises(RequestError, match="cannot read the baseline"):
        make_report(made, tmp_path / "results", tmp_path / "out", baseline=tmp_path / "none.jsonl")
