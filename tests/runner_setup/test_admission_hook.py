"""The admission hook: what may start, and everything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hub_runner.admission_hook import find_objections
from hub_runner.admission_policy import build_policy
from hub_runner.render import render_host_files

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config

Hook = Callable[..., subprocess.CompletedProcess[str]]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SHA = "0123456789abcdef" * 2 + "01234567"
FLOW = "org/repo/.github/workflows/hub-tests-comment.yml@refs/heads/main"
ENV = {
    "GITHUB_REPOSITORY": "org/repo",
    "GITHUB_EVENT_NAME": "issue_comment",
    "GITHUB_WORKFLOW_REF": FLOW,
    "GITHUB_WORKFLOW_SHA": SHA,
    "GITHUB_SHA": SHA,
    "GITHUB_REF": "refs/heads/main",
    "GITHUB_JOB": "test",
}
EVENT: dict[str, Any] = {
    "action": "created",
    "sender": {"login": "alice"},
    "issue": {"state": "open", "pull_request": {"url": "x"}},
    "comment": {
        "body": f"/run-hub-tests mixtral --sha {SHA}\nplease",
        "created_at": "2026-11-20T11:00:00Z",
        "author_association": "MEMBER",
        "user": {"login": "alice", "type": "User"},
    },
}


def told(
    config: Config, env: dict[str, str] | None = None, event: dict[str, Any] | None = None, *, uid: int = 60700
) -> list[str]:
    return list(find_objections(build_policy(config), {**ENV, **(env or {})}, event or EVENT, uid=uid, now=NOW))


def test_a_maintainers_command_is_admitted(config: Config) -> None:
    assert told(config) == []


@pytest.mark.parametrize("event", ["schedule", "workflow_dispatch"])
def test_the_clock_and_a_dispatch_are_admitted(config: Config, event: str) -> None:
    assert told(config, {"GITHUB_EVENT_NAME": event}, {"schedule": "0 2 * * *"}) == []


ENVIRONMENTS = {
    "another repository": {"GITHUB_REPOSITORY": "evil/repo"},
    "pull_request": {"GITHUB_EVENT_NAME": "pull_request"},
    "pull_request_target": {"GITHUB_EVENT_NAME": "pull_request_target"},
    "push": {"GITHUB_EVENT_NAME": "push"},
    "another workflow": {"GITHUB_WORKFLOW_REF": FLOW.replace("hub-tests-comment", "evil")},
    "the workflow of a branch": {"GITHUB_WORKFLOW_REF": FLOW.replace("main", "evil"), "GITHUB_REF": "refs/heads/evil"},
    "a branch's event": {"GITHUB_REF": "refs/heads/evil"},
    "a workflow of another commit": {"GITHUB_WORKFLOW_SHA": "f" * 40},
    "no commit": {"GITHUB_WORKFLOW_SHA": "", "GITHUB_SHA": ""},
    "a short commit": {"GITHUB_WORKFLOW_SHA": SHA[:7], "GITHUB_SHA": SHA[:7]},
    "case": {"GITHUB_EVENT_NAME": "Issue_Comment"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_any_other_event_workflow_or_commit_is_refused(config: Config, name: str) -> None:
    assert told(config, ENVIRONMENTS[name])


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(event: dict[str, Any]) -> None:
        for part in path[:-1]:
            event = event[part]
        event[path[-1]] = value

    return change


COMMENTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "edited": _set("action", value="edited"),
    "on an issue": _set("issue", "pull_request", value=None),
    "on a closed pull request": _set("issue", "state", value="closed"),
    "by a bot": _set("comment", "user", value={"login": "x[bot]", "type": "Bot"}),
    "in another's name": _set("sender", value={"login": "mallory"}),
    "by a stranger": _set("comment", "author_association", value="CONTRIBUTOR"),
    "by nobody": _set("comment", "user", value=None),
    "of something else": _set("comment", "body", value="looks good\n/run-hub-tests"),
    "of a longer word": _set("comment", "body", value="/run-hub-testsx"),
    "in capitals": _set("comment", "body", value="/RUN-HUB-TESTS"),
    "of nothing": _set("comment", "body", value=None),
    "with a branch for a commit": _set("comment", "body", value="/run-hub-tests --sha main"),
    "with a short commit": _set("comment", "body", value=f"/run-hub-tests --sha={SHA[:7]}"),
    "of last week": _set("comment", "created_at", value="2026-11-12T11:00:00Z"),
    "of tomorrow": _set("comment", "created_at", value="2026-11-21T12:00:00Z"),
    "without a time": _set("comment", "created_at", value="now"),
    "without a zone": _set("comment", "created_at", value="2026-11-20T11:00:00"),
}


@pytest.mark.parametrize("name", COMMENTS)
def test_any_other_comment_is_refused(config: Config, name: str) -> None:
    event = deepcopy(EVENT)
    COMMENTS[name](event)
    assert len(told(config, event=event)) >= 1


def test_only_the_fetching_job_runs_where_the_store_can_be_written(config: Config) -> None:
    assert told(config, {"GITHUB_JOB": "fetch"}, uid=60702) == []
    assert "may not run where the store" in told(config, uid=60702)[0]


def test_pinned_workflow_commits(config: Config) -> None:
    pinned = {**build_policy(config), "workflow_shas": ["f" * 40]}
    assert any("pinned" in each for each in find_objections(pinned, ENV, EVENT, uid=60700, now=NOW))
    assert list(find_objections({**pinned, "workflow_shas": [SHA]}, ENV, EVENT, uid=60700, now=NOW)) == []


def test_an_organizations_repositories_are_served(config: Config) -> None:
    of_org = {**build_policy(config), "repository": "", "organization": "Org"}
    assert list(find_objections(of_org, ENV, EVENT, uid=60700, now=NOW)) == []
    assert list(find_objections(of_org, {**ENV, "GITHUB_REPOSITORY": "orgs/repo"}, EVENT, uid=60700, now=NOW))


@pytest.fixture
def hook(config: Config, tmp_path: Path) -> Hook:
    """The hook as GitHub's runner calls it, with the policy as it is rendered."""
    place = tmp_path / "admission.json"
    place.write_text(render_host_files(config)["opt/hub-runner/admission.json"].text)

    def run(event: Any, **env: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "event.json"
        path.write_text(event if isinstance(event, str) else json.dumps(event))
        variables = {**ENV, "GITHUB_EVENT_PATH": str(path), **env}
        command = [sys.executable, "-I", "-m", "hub_runner.admission_hook", str(place)]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    return run


def test_the_hook_admits_with_0(hook: Hook) -> None:
    fresh = deepcopy(EVENT)
    fresh["comment"]["created_at"] = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    answer = hook(fresh)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "admitted" in answer.stdout


def test_the_hook_refuses_with_1_and_a_reason_that_is_one_command(
    hook: Hook,
) -> None:
    answer = hook(EVENT, GITHUB_WORKFLOW_REF="x\n::set-env name=PATH::/evil%0A")
    assert answer.returncode == 1
    assert all(line.startswith("::error title=") for line in answer.stdout.splitlines())
    assert "%" not in answer.stdout


@pytest.mark.parametrize("event", ["", "{", "[]", "null", '{"comment": []}', '{"issue": 1, "comment": {"user": 3}}'])
def test_whatever_cannot_be_judged_is_refused(hook: Hook, event: str) -> None:
    answer = hook(event)
    assert (answer.returncode, answer.stderr) == (1, "")


def test_the_hook_needs_the_standard_library_alone() -> None:
    script = "import hub_runner.admission_hook, sys; "
    script += "print([n for n in ('pydantic', 'typer', 'jinja2', 'ci') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("event", "refused"), [("schedule", False), ("workflow_dispatch", True), ("issue_comment", True)]
)
def test_where_compiled_code_is_kept_only_the_schedule_may_run(config: Config, event: str, refused: bool) -> None:
    policy = {**build_policy(config), "nightly_uids": [60703]}
    env = {**ENV, "GITHUB_EVENT_NAME": event}
    objections = {uid: list(find_objections(policy, env, EVENT, uid=uid, now=NOW)) for uid in (60700, 60703)}
    assert objections[60700] == []
    assert [text for text in objections[60703] if "compiled code is kept" in text] == objections[60703]
    assert bool(objections[60703]) is refused
