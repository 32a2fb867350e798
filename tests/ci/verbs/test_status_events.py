"""The event table of docs/status.md: what each event does to the commit's status and to the comment."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import HubTestsError
from ci.github.commit_results import name_artifact
from ci.github.context import Context
from ci.github.status_comment import CommentState, StartedRun, format_status_comment, read_state
from ci.records import to_json
from ci.report.report_files import write_report
from ci.verbs.gate import run_gate
from ci.verbs.plan import plan_event
from ci.verbs.publish import publish_report
from ci.verbs.report import make_report
from ci.verbs.start import start_run
from tests.ci.github.samples import add_result, zipped
from tests.ci.report import samples
from tests.e2e import events
from tests.e2e.contract import Contract
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.fake_github import State

PAGE = (Path(__file__).parents[3] / "docs/status.md").read_text(encoding="utf-8")
HEAD, OLD = samples.SHA, "b" * 40
RUNNING = StartedRun(555, 1, HEAD, ("mistral",))


@dataclass
class World:
    """Pull request 7 at HEAD, on which alice may write and bob may read; run 5 has found mixtral broken there."""

    context: Context
    github: Contract
    folder: Path

    @property
    def state(self) -> State:
        return self.github.fake.state

    @property
    def comment(self) -> str:
        return next((str(c["body"]) for c in self.state.comments if "hub-tests:board" in c["body"]), "")

    @property
    def reply(self) -> str:
        return next((str(c["body"]) for c in self.state.comments if "hub-tests:answer" in c["body"]), "")

    def say(self, body: str, run_id: int = 777, **who: str) -> str:
        """Let somebody comment, and do what the workflow does then; return what came of it."""
        event = self.folder / "event.json"
        event.write_text(json.dumps(events.comment(body, **who)))
        step = replace(self.context, run_id=run_id)
        decision = run_gate(step, event)
        return start_run(step, event, decision).decision if decision.decision == "run" else decision.decision

    def begin(self, name: str, payload: dict[str, Any]) -> None:
        """Let something else than a comment start the workflow."""
        event = self.folder / "event.json"
        event.write_text(json.dumps(payload))
        self.state.commits[self.state.repository, "HEAD"] = HEAD
        step = replace(self.context, inputs=replace(self.context.inputs, models=("smollm2",)))
        plan_event(step, name, event)

    def end(self, run_id: int, *failed: str, tested: tuple[str, ...] = ("smollm2",), sha: str = HEAD) -> Any:
        """Let a run end: report, upload, publish."""
        faults: Any = {f"test_forward_equivalence[{name}]": samples.mismatch() for name in failed}
        plan = samples.plan_of(*tested, sha=sha, pull_request=7, run_id=run_id, repository=self.state.repository)
        plan = replace(plan, request=replace(plan.request, subject_repository=self.state.repository))
        results = samples.make_results(plan, faults)
        out = self.folder / f"report-{run_id}"
        write_report(results, out)
        verdicts: dict[str, Any] = {entry.name: entry.verdict for entry in results.entries}
        made = add_result(self.state, run_id, sha, **verdicts)
        self.state.runs[run_id]["status"] = "in_progress"
        (out / "result.json").write_text(to_json(made))
        return publish_report(out, replace(self.context, run_id=run_id))

    def remember(self, *runs: StartedRun, sha: str = HEAD) -> None:
        """Let these runs be under way, announced on the pull request."""
        body = format_status_comment("### before", CommentState(runs))
        self.state.comments[:] = [{"id": 1, "issue": 7, "user": BOT, "body": body}]
        self.state.runs |= {run.run_id: {"status": "in_progress", "event": "issue_comment"} for run in runs}


@pytest.fixture
def world(context: Context, github: Contract, tmp_path: Path) -> World:
    state = github.fake.state
    state.roles |= {"alice": "write", "bob": "read"}
    state.pulls[7] = {"state": "open", "sha": HEAD, "repository": state.repository}
    made = World(context, github, tmp_path)
    made.remember()
    add_result(state, 5, HEAD, mixtral="failed")
    return made


def reader_comments(world: World) -> None:
    assert world.say("/run-hub-tests", login="bob") == "refused"


def bot_comments(world: World) -> None:
    assert world.say("/run-hub-tests", login="x[bot]", kind="Bot") == "ignored"
    assert world.say("/run-hub-tests", action="edited") == "ignored"


def writer_comments(world: World) -> None:
    assert world.say("/run-hub-tests smollm2") == "run"
    assert "### hub-tests: running" in world.comment
    assert "`mixtral` failed in [run 5]" in world.comment


def again_by_the_same_comment(world: World) -> None:
    world.state.reactions.append((3300000011, BOT, "rocket"))
    assert world.say("/run-hub-tests smollm2", run_id=778) == "ignored"


def what_is_running(world: World) -> None:
    world.state.runs[555] = {"status": "in_progress"}
    assert world.say("/run-hub-tests mistral") == "answered"


def fork_without_sha(world: World) -> None:
    world.state.pulls[7]["repository"] = "mallory/framework"
    assert world.say("/run-hub-tests smollm2") == "refused"
    assert f"/run-hub-tests smollm2 --sha {HEAD}" in world.reply


def newer_commit(world: World) -> None:
    world.state.pulls[7]["sha"] = "d" * 40
    world.state.runs[555] = {"status": "in_progress"}
    assert world.say("/run-hub-tests smollm2") == "run"
    assert world.state.cancelled == [555]
    assert [s for s in world.state.statuses if s["sha"] == HEAD] == []
    world.state.statuses.clear()


def end_alone(world: World) -> None:
    world.state.runs[555]["status"] = "completed"
    world.end(777)
    assert world.state.statuses[-1]["description"] == "failed: mixtral"
    assert "Passed: 1 model" in world.comment
    assert "`mixtral` failed in [run 5]" in world.comment
    world.end(778, tested=("mixtral",))
    assert (world.state.statuses[-1]["state"], world.state.statuses[-1]["description"]) == (
        "success",
        "2 models passed: smollm2, mixtral",
    )


def end_while_another_runs(world: World) -> None:
    world.end(777)
    assert "run 555 is still testing `mistral`" in world.comment


def end_at_an_old_commit(world: World) -> None:
    world.state.runs[555]["status"] = "completed"
    world.state.pulls[7]["sha"] = "d" * 40
    world.remember(replace(RUNNING, run_id=556, sha="d" * 40))
    before = world.comment
    world.end(777)
    assert world.comment == before
    world.remember()
    world.end(778)
    assert "stale: head is now" in world.comment
    assert {s["sha"] for s in world.state.statuses} == {HEAD}


def break_before_the_report(world: World) -> None:
    step = replace(world.context, inputs=replace(world.context.inputs, pull_request=7, subject_ref=HEAD))
    publish_report(world.folder / "nothing", step)
    assert "No result" in world.comment


def begin_by_hand_or_queue(world: World) -> None:
    world.begin("workflow_dispatch", events.dispatch())
    assert world.state.statuses[-1]["sha"] == HEAD
    world.begin("merge_group", events.merge_group("7" * 40))
    assert world.state.statuses[-1]["sha"] == "7" * 40


def refused_trifles(world: World) -> None:
    for path in (".*/reactions", ".*/comments", ".*/statuses/.*"):
        world.github.fake.faults.append(Fault("POST", path, 403, times=99))
    assert world.say("/run-hub-tests smollm2") == "run"
    assert "### hub-tests: running" in world.comment


def refused_final_status(world: World) -> None:
    world.github.fake.faults.append(Fault("POST", ".*/statuses/.*", 403, times=99))
    done = world.end(777)
    assert [one.what for one in done if one.problem] == ["status"]
    assert "The commit's status could not be set" in world.comment


EVENTS: dict[str, Callable[[World], None]] = {
    "a reader or a stranger comments `/run-hub-tests`": reader_comments,
    "a bot comments, or a comment is edited": bot_comments,
    "a writer comments `/run-hub-tests`": writer_comments,
    "the same comment starts a second run": again_by_the_same_comment,
    "a writer asks for what is running already": what_is_running,
    "a writer asks for a fork without `--sha`": fork_without_sha,
    "a writer starts a run at a newer commit": newer_commit,
    "a run ends, no other is under way": end_alone,
    "a run ends while another is under way at the same commit": end_while_another_runs,
    "a run ends at a commit that is no longer the head": end_at_an_old_commit,
    "a run breaks before its report": break_before_the_report,
    "the workflow is started by hand, or by the merge queue": begin_by_hand_or_queue,
    "GitHub refuses a reaction, a reply or a pending status": refused_trifles,
    "GitHub refuses the final status": refused_final_status,
}
FINAL = {
    "unchanged": None,
    "unchanged at the old commit": None,
    "the last one stays": None,
    "as far as GitHub lets": None,
    "pending": "pending",
    "error": "error",
    "by the rules above": "success",
    "by the rules, at the old commit": "failure",
}


def rows() -> list[list[str]]:
    (block,) = re.findall(r"^\| event \|.*\n\|[-|]+\n((?:\|.*\n)*)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in str(block).splitlines()]


def test_the_page_has_these_events() -> None:
    assert [row[0] for row in rows()] == list(EVENTS)


@pytest.mark.parametrize(("event", "status", "comment"), rows())
def test_each_event_does_what_the_page_says(world: World, event: str, status: str, comment: str) -> None:
    if event in (
        "a writer asks for what is running already",
        "a run ends while another is under way at the same commit",
    ):
        world.remember(RUNNING)
    elif event.startswith(("a run ends", "a writer starts")):
        world.remember(replace(RUNNING, sha=OLD))
    written, reply = world.comment, world.reply
    EVENTS[event](world)
    assert [s["state"] for s in world.state.statuses[-1:]] == [FINAL[status]] * bool(FINAL[status])
    if comment == "unchanged" or "only the reply" in comment:
        assert world.comment == written
    assert (world.reply != reply) is ("only the reply" in comment)


RUNS = ((777, (), ("smollm2",)), (778, ("smollm2",), ("smollm2", "mistral")), (779, (), ("smollm2", "mixtral")))


@pytest.mark.parametrize("order", list(itertools.permutations(RUNS)))
@pytest.mark.parametrize("last_green", [True, False])
def test_runs_at_one_commit_end_in_any_order(world: World, order: Any, last_green: bool) -> None:
    """All are started before the first one ends: only the last end may be green, and the order changes nothing."""
    world.remember(*(StartedRun(run_id, run_id, HEAD, tested) for run_id, _, tested in RUNS))
    for number, (run_id, failed, tested) in enumerate(order):
        if run_id == 779 and not last_green:
            failed = ("mixtral",)
        world.end(run_id, *failed, tested=tested)
        state = world.state.statuses[-1]["state"]
        assert state == ("pending" if number < 2 else "success" if last_green else "failure")
    named = "3 models passed" if last_green else "failed: mixtral"
    assert world.state.statuses[-1]["description"].startswith(named)
    assert read_state(world.comment).runs == ()


def clean_calls(world: World, act: Callable[[World], object]) -> list[tuple[str, str]]:
    """The distinct calls of an event."""
    act(world)
    return list(dict.fromkeys((request.method, request.path) for request in world.github.fake.log))


@pytest.mark.parametrize("status", [403, 404, 500])
@pytest.mark.parametrize("act", [writer_comments, lambda world: world.end(777)], ids=["comment", "end"])
def test_a_failure_at_any_call_never_makes_a_broken_commit_green(
    world: World, act: Callable[[World], object], status: int
) -> None:
    """Run 5 has found mixtral broken: whatever GitHub refuses, the commit is not green."""
    calls = clean_calls(world, act)
    assert len(calls) >= 5
    for method, path in calls:
        world.github.fake.reset()
        state = world.state
        state.roles |= {"alice": "write"}
        state.pulls[7] = {"state": "open", "sha": HEAD, "repository": state.repository}
        world.remember()
        add_result(state, 5, HEAD, mixtral="failed")
        world.github.fake.faults.append(Fault(method, re.escape(path), status, times=99))
        with suppress(HubTestsError, AssertionError):  # the role and the head cannot be done without
            act(world)
        assert "success" not in [s["state"] for s in state.statuses], (method, path)
        announced = state.statuses or world.comment != format_status_comment("### before", CommentState())
        assert announced or path.endswith(("/permission", "/pulls/7", "/statuses/" + HEAD)), (method, path)


def test_a_report_leaves_its_results_for_later_runs(context: Context, world: World, tmp_path: Path) -> None:
    plan = samples.plan_of("smollm2", run_id=777)
    world.state.runs[777] = {"status": "in_progress", "run_started_at": "2026-01-02T03:04:05Z"}
    folder = tmp_path / "results/hub-tests-smollm2.1"
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_bytes(samples.junit(plan))
    world.state.jobs[777] = []
    make_report(plan, tmp_path / "results", tmp_path / "out", context=context)
    content = (tmp_path / "out/result.json").read_text()
    assert '"started":"2026-01-02T03:04:05Z"' in content.replace(": ", ":")
    world.state.add_artifact(777, name_artifact(HEAD), zipped(content))
