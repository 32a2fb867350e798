"""The gate as a step of the workflow: what reaches the pull request, and what the next job is told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError
from ci.github.status_comment import read_state
from ci.report.history import history_line
from ci.verbs.gate import run_gate
from tests.ci.github.test_actions import runner_reads
from tests.ci.report import samples
from tests.e2e import events
from tests.e2e.fake_github import BOT

if TYPE_CHECKING:
    from pathlib import Path

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


def hear(context: Context, tmp_path: Path, body: str, registry: Path | None = None, **who: str) -> Any:
    event = tmp_path / "event.json"
    event.write_text(json.dumps(events.comment(body, **who)))
    return run_gate(context, event, registry)


def outputs(context: Context) -> dict[str, str]:
    assert context.output_path is not None
    return dict(runner_reads(context.output_path.read_text()))


def test_a_run_is_announced_and_handed_on(context: Context, pull: State, tmp_path: Path) -> None:
    hear(context, tmp_path, "/run-hub-tests mixtral --layers 3")
    assert outputs(context) == {
        "decision": "run",
        "sha": HEAD,
        "models": "mixtral",
        "layers": "3",
        "pull-request": "7",
    }
    (run,) = read_state(pull.comment("board")).runs
    assert (run.run_id, run.sha, run.models, run.layers) == (777, HEAD, ("mixtral",), 3)
    assert [(s["sha"], s["state"]) for s in pull.statuses] == [(HEAD, "pending")]


def test_the_same_comment_starts_one_run_and_a_second_attempt_of_it(
    context: Context, pull: State, tmp_path: Path
) -> None:
    """Its rocket tells: GitHub lets nobody react in the same way twice."""
    assert hear(context, tmp_path, "/run-hub-tests mixtral").decision == "run"
    again = replace(context, run_id=778)
    assert hear(again, tmp_path, "/run-hub-tests mixtral").decision == "ignored"
    pull.runs[777] = {"status": "in_progress"}  # a later attempt is not its own rival
    assert hear(replace(context, run_attempt=2), tmp_path, "/run-hub-tests mixtral").decision == "run"
    assert len(pull.statuses) == 2


def test_a_plan_is_estimated_from_the_nights_on_record(context: Context, pull: State, tmp_path: Path) -> None:
    plan = samples.plan_of("mixtral", subject="reference")
    nights = samples.nights(plan, {}).records["mixtral"]
    tree = pull.put({"history/2026-08.jsonl": pull.put("".join(map(history_line, nights)))})
    pull.refs[f"heads/{context.data_branch}"] = pull.put({"tree": tree, "parents": [], "message": "nights"})
    assert hear(context, tmp_path, "/run-hub-tests mixtral --plan").decision == "answered"
    assert "by the last nights. Nothing was started." in pull.comment("answer")
    assert pull.statuses == []


def test_a_registry_that_cannot_be_read_is_answered(context: Context, pull: State, tmp_path: Path) -> None:
    registry = tmp_path / "models.toml"
    registry.write_text("[ours]\nmodle_id = 'a/b'\n")
    with pytest.raises(RequestError, match="modle_id"):
        hear(context, tmp_path, "/run-hub-tests", registry)
    answer = pull.comment("answer")
    assert "The registry of models cannot be read, so nothing was started." in answer
    assert "modle_id" in answer
    assert [content for _, who, content in pull.reactions if who == BOT] == ["eyes", "confused"]
    with pytest.raises(RequestError):
        hear(context, tmp_path, "/run-hub-tests", registry, login="bob")
    assert "`bob` cannot start hub-tests" in pull.comment("answer")
    assert pull.statuses == []


@pytest.mark.parametrize("who", [{"action": "edited"}, {"kind": "Bot", "login": "x[bot]"}])
def test_what_is_none_of_its_business_asks_nobody(
    context: Context, pull: State, github: Contract, tmp_path: Path, who: dict[str, str]
) -> None:
    assert hear(context, tmp_path, "/run-hub-tests", None, **who).decision == "ignored"
    assert github.fake.log == []
    assert outputs(context)["decision"] == "ignored"
