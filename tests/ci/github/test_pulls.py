"""Roles, pull requests, reactions and the kept comments, against the stand-in for GitHub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import RequestError
from ci.github import pulls
from ci.github.api import ApiSettings
from ci.github.client import Client
from ci.github.gate_input import PullRequest, Role
from ci.github.status_comment import MARKERS
from tests.e2e.fake_github import BOT, TOKEN, FakeGitHub, Fault

if TYPE_CHECKING:
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State


SHA = "a" * 40


def test_roles(client: Client, state: State) -> None:
    state.roles |= {"ann": "admin", "tri": "triage", "cus": "release-team"}
    state.bases["cus"] = "write"
    assert pulls.get_role(client, "ann") == Role("admin", "admin")
    assert pulls.get_role(client, "tri") == Role("triage", "read")
    assert pulls.get_role(client, "cus") == Role("release-team", "write")
    assert not pulls.get_role(client, "stranger").can_write


def test_somebody_github_does_not_know_has_no_role(client: Client, github: Contract) -> None:
    github.fake.faults.append(Fault("GET", ".*/permission", 404))
    assert pulls.get_role(client, "ghost") == Role("none", "none")


def test_a_pull_request(client: Client, state: State) -> None:
    state.pulls[3] = {"state": "closed", "sha": SHA, "repository": "mallory/framework"}
    result = pulls.get_pull_request(client, 3)
    assert result == PullRequest(3, False, SHA, "mallory/framework", state.repository)
    assert result.is_fork


def test_a_pull_request_of_a_deleted_fork() -> None:
    """GitHub then answers null, which its own description does not know."""
    with FakeGitHub() as bare, Client(ApiSettings(bare.state.repository, TOKEN, bare.url)) as client:
        bare.state.pulls[3] = {"state": "open", "sha": SHA, "repository": None}
        result = pulls.get_pull_request(client, 3)
    assert (result.head_repository, result.is_fork) == (None, True)


def test_only_the_first_reaction_is_the_first(client: Client) -> None:
    assert [pulls.add_reaction(client, 5, "rocket") for _ in range(3)] == [True, False, False]


def test_a_comment_with_our_marker_by_somebody_else_is_not_ours(client: Client, state: State) -> None:
    for who, body in (
        ("mallory", MARKERS["status"]),
        ("other[bot]", MARKERS["status"]),
        (BOT, "see " + MARKERS["status"]),
        (BOT, f"{MARKERS['reply']}\n{MARKERS['status']}"),
    ):
        state.comments.append({"id": len(state.comments) + 1, "issue": 7, "user": who, "body": body})
    assert pulls.find_comment(client, 7, "status", bot=BOT) is None
    made = pulls.write_comment(client, 7, None, f"{MARKERS['status']}\none")
    again = pulls.write_comment(
        client, 7, pulls.find_comment(client, 7, "status", bot=BOT), f"{MARKERS['status']}\ntwo"
    )
    assert again.id == made.id
    assert [comment["body"] for comment in state.comments[4:]] == [f"{MARKERS['status']}\ntwo"]


def test_our_comment_is_found_behind_a_hundred_others(client: Client, state: State) -> None:
    for number in range(150):
        state.comments.append({"id": number + 1, "issue": 7, "user": "ann", "body": "me too"})
    state.comments.append({"id": 500, "issue": 7, "user": BOT, "body": MARKERS["status"] + "\r\nx"})
    result = pulls.find_comment(client, 7, "status", bot=BOT)
    assert result is not None
    assert result.id == 500


def test_a_comment_that_was_deleted_is_written_anew(client: Client, state: State) -> None:
    made = pulls.write_comment(client, 7, None, MARKERS["status"])
    state.comments.clear()
    pulls.write_comment(client, 7, made, f"{MARKERS['status']}\nx")
    assert len(state.comments) == 1


def test_a_comment_too_long_is_refused_before_it_is_sent(client: Client, github: Contract) -> None:
    with pytest.raises(RequestError, match="65537 characters"):
        pulls.write_comment(client, 7, None, "x" * 65537)
    assert github.fake.log == []
