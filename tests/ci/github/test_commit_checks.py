"""Status and check run of a report, against the stand-in for GitHub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.github import commit_checks
from tests.ci.report import samples

if TYPE_CHECKING:
    from ci.github.client import Client
    from tests.e2e.fake_github import State


SHA = "a" * 40


def test_status_and_check_of_a_failure(client: Client, state: State) -> None:
    results = samples.failing()
    commit_checks.set_status(client, SHA, "failure", "x" * 500, "https://github.com/x")
    commit_checks.create_check_run(client, results, title="t" * 500, summary="s")
    assert len(state.statuses[0]["description"]) == 140
    (check,) = state.checks
    assert check["conclusion"] == "failure"
    assert len(check["output"]["title"]) == 255
    assert [a["annotation_level"] for a in check["output"]["annotations"]] == ["failure"] * 5


def test_fifty_annotations_at_most(client: Client, state: State) -> None:
    commit_checks.create_check_run(client, samples.huge(40), title="t", summary="s")
    assert len(state.checks[0]["output"]["annotations"]) == 50


def test_hostile_text_in_annotations(client: Client, state: State) -> None:
    commit_checks.create_check_run(client, samples.hostile(), title="t", summary="s")
    for annotation in state.checks[0]["output"]["annotations"]:
        assert "\x1b" not in annotation["message"] + annotation["title"]


def test_infrastructure_only_warns(client: Client, state: State) -> None:
    commit_checks.create_check_run(client, samples.neutral(), title="t", summary="s")
    assert state.checks[0]["conclusion"] == "neutral"
    assert {a["annotation_level"] for a in state.checks[0]["output"]["annotations"]} == {"warning"}
