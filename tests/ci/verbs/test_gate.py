"""The gate as a step of the workflow: what reaches the pull request, and what the next job is told."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import ci
from ci.errors import InfrastructureError, RequestError
from ci.github.context import WorkflowInputs
from ci.github.gate import GateDecision
from ci.github.job_outputs import unpack_record
from ci.github.status_comment import CommentState, StartedRun, format_status_comment
from ci.report.history import history_line
from ci.verbs.gate import run_gate
from tests.ci.github.test_actions import runner_reads
from tests.ci.report import samples
from tests.e2e import events
from tests.e2e.fake_github import BOT, Fault

if TYPE_CHECKING:
    from ci.github.context import Context
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State

HEAD = "a" * 40


@pytest.fixture
def pull(state: State) -> State:
    """Pull request 7 of the repository's own branch, where alice may write and bob may not."""
    state.roles |= {"alice": "write", "bob": "read"}
    state.pulls[7] = {"state": "open", "sha": HEAD, "repository": state.repository}
    return state


def gate_comment(context: Context, tmp_path: Path, body: str, registry: Path | None = None, **who: str) -> Any:
    event = tmp_path / "event.json"
    event.write_text(json.dumps(events.comment(body, **who)))
    return run_gate(context, event, registry)


def outputs(context: Context) -> dict[str, str]:
    assert context.output_path is not None
    return dict(runner_reads(context.output_path.read_text()))


def test_a_run_is_handed_on_and_nothing_is_written_yet(context: Context, pull: State, tmp_path: Path) -> None:
    """`start` announces it, in the queue that only what the gate allows enters."""
    command = "/run-hub-tests mixtral --layers 3 --slice vocab=9 --deep --consumer vllm"
    decision = gate_comment(context, tmp_path, command)
    told = outputs(context)
    assert unpack_record(GateDecision, told.pop("record"), what="record") == decision
    assert told == {
        "decision": "run",
        "sha": HEAD,
        "models": "mixtral",
        "layers": "3",
        "slice": "vocab=9",
        "deep": "true",
        "consumer": "vllm",
        "pull-request": "7",
    }
    assert pull.comments == pull.statuses == []
    assert [content for _, _, content in pull.reactions] == ["eyes"]


def test_a_stranger_costs_four_questions_and_three_writes(
    context: Context, pull: State, github: Contract, tmp_path: Path
) -> None:
    """And learns nothing about runs: neither the status comment nor any run is read."""
    body = format_status_comment("running", CommentState((StartedRun(555, 1, HEAD, ("mixtral",)),)))
    pull.comments.append({"id": 1, "issue": 7, "user": BOT, "body": body})
    assert gate_comment(context, tmp_path, "/run-hub-tests mixtral", login="bob").decision == "refused"
    assert len([request for request in github.fake.log if not request.is_write]) == 3
    assert len(github.fake.writes()) == 3
    assert pull.comment("board") == body.strip() or pull.comment("board") == body
    assert outputs(context)["record"] == ""


COSMETIC = [
    ("POST", ".*/reactions"),
    ("GET", ".*/issues/7/comments"),
    ("POST", ".*/issues/7/comments"),
    ("GET", ".*/git/ref/.*"),
]


@pytest.mark.parametrize(("method", "path"), COSMETIC)
@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize(("body", "kind"), [("mixtral", "run"), ("--plan", "answered"), ("nonesuch", "refused")])
def test_a_cosmetic_call_that_fails_is_said_and_changes_no_decision(
    context: Context,
    pull: State,
    github: Contract,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    path: str,
    status: int,
    body: str,
    kind: str,
) -> None:
    fault = Fault(method, path, status, times=99)
    github.fake.faults.append(fault)
    assert gate_comment(context, tmp_path, f"/run-hub-tests {body}").decision == kind
    assert ("::warning" in capsys.readouterr().err) == (fault.times < 99)


@pytest.mark.parametrize("path", [".*/permission", ".*/pulls/7"])
def test_without_the_role_or_the_head_nothing_starts(
    context: Context, pull: State, github: Contract, tmp_path: Path, path: str
) -> None:
    github.fake.faults.append(Fault("GET", path, 500, times=99))
    with pytest.raises(InfrastructureError):
        gate_comment(context, tmp_path, "/run-hub-tests mixtral")
    assert context.output_path is not None
    assert not context.output_path.exists()


def test_a_plan_is_estimated_from_the_nights_on_record(context: Context, pull: State, tmp_path: Path) -> None:
    plan = samples.plan_of("mixtral", subject="reference")
    nights = samples.nights(plan, {}).records["mixtral"]
    tree = pull.put({"history/2026-08.jsonl": pull.put("".join(map(history_line, nights)))})
    pull.refs[f"heads/{context.data_branch}"] = pull.put({"tree": tree, "parents": [], "message": "nights"})
    assert gate_comment(context, tmp_path, "/run-hub-tests mixtral --plan").decision == "answered"
    assert "by the last nights. Nothing was started." in pull.comment("answer")
    assert pull.statuses == []


def test_a_registry_that_cannot_be_read_is_answered(context: Context, pull: State, tmp_path: Path) -> None:
    registry = tmp_path / "models.toml"
    registry.write_text("[ours]\nmodle_id = 'a/b'\n")
    with pytest.raises(RequestError, match="modle_id"):
        gate_comment(context, tmp_path, "/run-hub-tests", registry)
    answer = pull.comment("answer")
    assert "The registry of models cannot be read, so nothing was started." in answer
    assert "modle_id" in answer
    assert [content for _, who, content in pull.reactions if who == BOT] == ["eyes", "confused"]
    with pytest.raises(RequestError):
        gate_comment(context, tmp_path, "/run-hub-tests", registry, login="bob")
    assert "`bob` cannot start hub-tests" in pull.comment("answer")
    assert pull.statuses == []


@pytest.mark.parametrize("who", [{"action": "edited"}, {"kind": "Bot", "login": "x[bot]"}])
def test_what_is_none_of_its_business_asks_nobody(
    context: Context, pull: State, github: Contract, tmp_path: Path, who: dict[str, str]
) -> None:
    assert gate_comment(context, tmp_path, "/run-hub-tests", None, **who).decision == "ignored"
    assert github.fake.log == []
    assert outputs(context)["decision"] == "ignored"


def test_what_a_comment_asks_for_reaches_the_run() -> None:
    folder = Path(ci.__file__).parents[1] / ".github/workflows"
    jobs = yaml.safe_load((folder / "hub-tests-comment.yml").read_text(encoding="utf-8"))["jobs"]
    called: dict[Any, Any] = yaml.load((folder / "hub-tests.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    asked = {field.name for field in fields(GateDecision)} & {field.name for field in fields(WorkflowInputs)}
    assert asked >= {"models", "layers", "slice", "deep"}
    for name in (field.replace("_", "-") for field in asked):
        assert name in jobs["gate"]["outputs"]
        assert f"needs.gate.outputs.{name}" in jobs["run"]["with"][name]
        assert name in called["on"]["workflow_call"]["inputs"]
