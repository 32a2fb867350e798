"""plan, admit, watch, report and conclude, as a step of a workflow calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.board import State as Board
from ci.github.board import write_board
from ci.github.context import Inputs
from ci.github.handover import Delivery
from ci.github.runs import INSTALL_STEP
from ci.plan import Plan, RunRequest, make_plan
from ci.report.history import history_line
from ci.verbs.admit import admit, head_of
from ci.verbs.conclude import NotGreenError, conclude
from ci.verbs.plan import plan
from ci.verbs.report import report
from ci.verbs.watch import watch
from tests.ci.github.test_actions import runner_reads
from tests.ci.github.test_rooms import job
from tests.ci.report import samples
from tests.e2e import events
from tests.e2e.act import git
from tests.e2e.fake_github import BOT

if TYPE_CHECKING:
    from ci.github.context import Context
    from tests.e2e.fake_github import Request, State

ROOT = Path(__file__).parents[3]


def recorded(tmp_path: Path, payload: Any) -> Path:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(payload))
    return path


def test_a_plan_fixes_the_commit_of_a_branch(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "release/1"] = "3" * 40
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",), subject_ref="release/1"))
    made = plan(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch()))
    assert (made.request.sha, [entry.name for entry in made.entries]) == ("3" * 40, ["mixtral"])
    assert context.output is not None
    outputs = runner_reads(context.output.read_text())
    assert (outputs["sha"], outputs["count"], outputs["scope"]) == ("3" * 40, "1", "main")


def test_a_pull_request_named_by_hand_is_held_to_its_head(context: Context, state: State, tmp_path: Path) -> None:
    """Also where a whole commit is given: it must be what the pull request points at."""
    state.pulls[7] = {"state": "open", "sha": "4" * 40, "repository": "mallory/framework"}
    event = recorded(tmp_path, events.dispatch())
    asking = replace(context.inputs, models=("mixtral",), pull_request=7, subject_ref="3" * 40)
    with pytest.raises(RequestError, match=f"its head is {'4' * 40}, give it as subject-ref"):
        plan(replace(context, inputs=asking), "workflow_dispatch", event)
    made = plan(replace(context, inputs=replace(asking, subject_ref="4" * 40)), "workflow_dispatch", event)
    assert made.request.sha == "4" * 40


def test_a_name_that_is_no_commit_is_refused(context: Context, state: State, tmp_path: Path) -> None:
    state.commits[state.repository, "HEAD"] = "abc"
    asking = replace(context, inputs=replace(context.inputs, models=("mixtral",)))
    with pytest.raises((RequestError, InfrastructureError)):
        plan(asking, "workflow_dispatch", recorded(tmp_path, events.dispatch()))


def test_a_plan_of_nothing_asks_nobody(context: Context, state: State, tmp_path: Path) -> None:
    asking = replace(context, inputs=Inputs(models=("nonesuch",)))
    with pytest.raises(RequestError, match="no model 'nonesuch'"):
        plan(asking, "schedule", recorded(tmp_path, events.schedule()))
    assert context.output is not None
    assert not context.output.exists()


def test_a_plan_needs_no_torch_and_no_http_client(tmp_path: Path) -> None:
    path = recorded(tmp_path, events.schedule())
    program = (
        "import sys; from ci.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'githubkit', 'huggingface_hub'} & set(sys.modules); print(code, heavy)"
    )
    words = ["plan", "--event-name", "schedule", "--event-path", str(path)]
    environ = {"GITHUB_REPOSITORY": "o/r", "HUB_TESTS_INPUTS": json.dumps({"subject-ref": "1" * 40})}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr


def test_only_the_planned_commit_is_admitted(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "subject")
    subject = tmp_path / "subject"
    git(subject, "commit", "--quiet", "--allow-empty", "--message=x")
    made = make_plan(RunRequest(models=("smollm2",), sha="1" * 40), samples.MODELS)
    with pytest.raises(RequestError, match=f"is at {head_of(subject)}, planned was {'1' * 40}"):
        admit(made, Delivery({}, {}), "smollm2", subject=subject, store=tmp_path, out=tmp_path / "out")
    with pytest.raises(RequestError, match="no git checkout"):
        head_of(tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def asked(state: State) -> Plan:
    """A plan of two models for pull request 42, whose board says that it runs."""
    state.comments.append({"id": 1, "issue": 42, "user": BOT, "body": write_board("running", Board())})
    return samples.plan_of("smollm2", "mistral")


WAITING = {"status": "queued", "conclusion": None, "runner_name": None, "completed_at": None}


def test_a_missing_runner_is_said_on_the_pull_request(context: Context, state: State) -> None:
    made = asked(state)
    state.jobs[777] = [
        job("run / test smollm2", 1),
        job("run / test mistral", 2, **WAITING, created_at="2026-01-02T03:00:00Z"),
    ]
    assert watch(made, context, ("test smollm2", "test mistral"), patience=0.05) == ("test mistral",)
    board = state.comment("board")
    assert "No runner with the labels `self-hosted`, `gpu` has taken `test mistral` since" in board
    assert "2026-01-02 03:00" in board.replace("`", "")


def test_a_job_of_an_earlier_attempt_is_not_the_one_to_watch(context: Context, state: State) -> None:
    made = asked(state)
    state.jobs[777] = [job("test smollm2", 1), job("test smollm2", 2, **WAITING | {"run_attempt": 2})]
    assert watch(made, replace(context, run_attempt=2), ("test smollm2",), patience=0.0) == ("test smollm2",)
    state.jobs[777] = state.jobs[777][:1]
    polls: list[float] = []
    clock, second = iter((0.0, 0.0, 0.0, 9.0)).__next__, replace(context, run_attempt=2)
    assert watch(made, second, ("test smollm2",), patience=1.0, sleep=polls.append, clock=clock) == ()
    assert len(polls) == 1


def test_without_a_pull_request_a_missing_runner_is_an_annotation(
    context: Context, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    made = samples.plan_of("smollm2", trigger="schedule", pull_request=None)
    state.jobs[777] = [job("test smollm2", 1, **WAITING)]
    assert watch(made, context, ("test smollm2",), patience=0.0) == ("test smollm2",)
    assert capsys.readouterr().out.startswith("::warning title=hub-tests::no runner with self-hosted, gpu has taken")
    assert state.comments == []


def test_a_job_behind_another_run_lacks_no_runner(context: Context, state: State) -> None:
    """GitHub calls it pending while a job of the same concurrency group is under way."""
    made = asked(state)
    state.jobs[777] = [job("run / test smollm2", 1, **WAITING | {"status": "pending"})]
    polls: list[float] = []
    clock = iter((0.0, 0.0, 0.0, 9.0)).__next__
    assert watch(made, context, ("test smollm2",), patience=1.0, sleep=polls.append, clock=clock) == ()
    assert len(polls) == 1
    assert "No runner" not in state.comment("board")


def test_a_missing_fetch_runner_is_said_too(context: Context, state: State) -> None:
    made = asked(state)
    labels = {"labels": ["self-hosted", "hub-tests-store"]}
    state.jobs[777] = [job("run / fetch", 1, **WAITING | labels, created_at="2026-01-02T03:00:00Z")]
    assert watch(made, context, ("fetch",), patience=0.05) == ("fetch",)
    assert "No runner with the labels `self-hosted`, `hub-tests-store` has taken `fetch` since" in state.comment(
        "board"
    )


def test_watching_ends_with_the_last_job_on_a_machine(context: Context, state: State) -> None:
    made = asked(state)
    state.jobs[777] = [job("run / test smollm2", 1)]
    polls: list[float] = []

    def later(seconds: float) -> None:
        polls.append(seconds)
        state.jobs[777].append(job("run / test mistral", 2, status="in_progress", conclusion=None, completed_at=None))

    assert watch(made, context, ("test smollm2", "test mistral"), sleep=later) == ()
    assert len(polls) == 1
    assert "running" in state.comment("board")


def test_a_job_without_a_machine_is_nobodys_fault(context: Context, state: State, tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    state.jobs[777] = [job("test smollm2", 1, status="completed", conclusion="cancelled", runner_name=None)]
    judged = report(made, tmp_path / "results", tmp_path / "out", context=context)
    assert judged.verdict == "neutral"
    state.jobs[777] = [job("test smollm2", 1, **WAITING)]
    judged = report(made, tmp_path / "results", tmp_path / "out", context=context)
    assert judged.verdict == "neutral"
    assert "no machine took this job" in judged.causes[0].title


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
    judged = report(samples.plan_of("smollm2"), tmp_path / "results", tmp_path / "out", context=context)
    assert judged.verdict == "neutral"
    assert judged.causes[0].title == f"nothing was tested: {said}"


def test_an_entry_without_a_job_beside_others_that_have_one_is_red(
    context: Context, state: State, tmp_path: Path
) -> None:
    state.jobs[777] = [job("run / fetch", 1), job("run / test smollm2", 2)]
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(samples.plan_of("smollm2")))
    made = samples.plan_of("smollm2", "mistral")
    judged = report(made, tmp_path / "results", tmp_path / "out", context=context)
    assert [entry.verdict for entry in judged.entries] == ["passed", "failed"]


STEPS = ("Set up job", "Set up hub-tests", "Admit only the planned commit", INSTALL_STEP, "Run the suite")


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
    state.jobs[777] = [job("run / test smollm2", 1, conclusion="failure", steps=steps), job("run / fetch", 2)]
    judged = report(samples.plan_of("smollm2"), tmp_path / "results", tmp_path / "out", context=context)
    assert (judged.verdict, judged.causes[0].title) == (verdict, said)


def test_a_green_file_does_not_outweigh_a_red_job(context: Context, state: State, tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(made))
    state.jobs[777] = [job("run / test smollm2", 1, conclusion="failure")]
    assert report(made, tmp_path / "results", tmp_path / "out", context=context).verdict == "failed"
    assert report(made, tmp_path / "results", tmp_path / "out").verdict == "passed"


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
    assert report(made, tmp_path / "results", tmp_path / "out", context=context).verdict == "passed"
    state.jobs[777] = [late]
    assert report(made, tmp_path / "results", tmp_path / "out", context=context).verdict == "neutral"


def test_only_the_failed_job_runs_again(context: Context, state: State, tmp_path: Path) -> None:
    """Two artifacts of the entry that failed and one of the other, whose job GitHub lists again as it was."""
    made = samples.plan_of("smollm2", "mistral")
    bad = {"test_forward_equivalence[smollm2]": samples.mismatch()}
    for name, faults in (("smollm2.1", bad), ("smollm2.2", {}), ("mistral.1", {})):
        folder = tmp_path / f"results/hub-tests-{name}"
        folder.mkdir(parents=True)
        (folder / "junit.xml").write_bytes(samples.junit(samples.plan_of(name.split(".")[0]), faults))
    later = {"run_attempt": 2, "started_at": "2026-01-02T04:00:00Z", "completed_at": "2026-01-02T04:01:00Z"}
    state.jobs[777] = [job("run / test smollm2", 1, conclusion="failure"), job("run / test mistral", 2)]
    state.jobs[777] += [job("run / test smollm2", 3, **later), job("run / test mistral", 4, run_attempt=2)]
    judged = report(made, tmp_path / "results", tmp_path / "out", context=replace(context, run_attempt=2))
    assert judged.verdict == "passed"
    assert [entry.attempt for entry in judged.entries] == [2, 1]
    assert judged.totals.flaky == 1


def test_a_baseline_from_files(tmp_path: Path) -> None:
    made = samples.plan_of("smollm2")
    nights = samples.nights(made, {}).records["smollm2"]
    (tmp_path / "history").mkdir()
    (tmp_path / "history/a.jsonl").write_text("".join(map(history_line, nights)))
    folder = tmp_path / "results/smollm2"
    folder.mkdir(parents=True)
    bad = {"test_forward_equivalence[smollm2]": samples.mismatch()}
    (folder / "junit.xml").write_bytes(samples.junit(made, bad))
    judged = report(made, tmp_path / "results", tmp_path / "out", baseline=tmp_path / "history")
    assert judged.causes[0].change == "new"
    with pytest.raises(RequestError, match="cannot read the baseline"):
        report(made, tmp_path / "results", tmp_path / "out", baseline=tmp_path / "none.jsonl")


def needs(**results: str) -> str:
    return json.dumps({name: {"result": result, "outputs": {}} for name, result in results.items()})


def test_green_is_only_what_really_succeeded() -> None:
    assert conclude(needs(plan="success", night="skipped"), frozenset({"night"}))
    for bad in (
        needs(plan="success", test="skipped"),
        needs(plan="cancelled"),
        needs(plan="failure", test="skipped"),
        needs(night="failure"),
        needs(night="whatever"),
    ):
        with pytest.raises(NotGreenError, match="ended as"):
            conclude(bad, frozenset({"night"}) if "night" in bad else frozenset())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"a": {}}', '{"a": "success"}', "null"])
def test_no_jobs_are_not_green(text: str) -> None:
    with pytest.raises(RequestError):
        conclude(text, frozenset())


def test_leave_to_skip_a_job_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="no such job"):
        conclude(needs(plan="success"), frozenset({"nigth"}))
