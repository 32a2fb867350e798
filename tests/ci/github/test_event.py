"""Recorded payloads, and payloads that somebody bent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.errors import RequestError
from ci.github.event import (
    MAX_PAYLOAD_BYTES,
    CommentEvent,
    DispatchEvent,
    MergeGroupEvent,
    ScheduleEvent,
    load_event,
    parse_event,
)
from tests.e2e import events

if TYPE_CHECKING:
    from pathlib import Path


def packed(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def test_a_comment_on_a_pull_request() -> None:
    assert parse_event("issue_comment", packed(events.comment("/run-hub-tests\nplease"))) == CommentEvent(
        action="created",
        repository="octo-org/framework",
        default_branch="main",
        number=7,
        is_pull_request=True,
        is_open=True,
        comment_id=3300000011,
        comment_url="https://github.com/octo-org/framework/pull/7#issuecomment-3300000011",
        body="/run-hub-tests\nplease",
        login="alice",
        user_type="User",
        author_association="MEMBER",
    )


def test_a_comment_on_an_issue() -> None:
    payload = events.comment("x")
    del payload["issue"]["pull_request"]
    event = parse_event("issue_comment", packed(payload))
    assert isinstance(event, CommentEvent)
    assert not event.is_pull_request


def test_a_dispatch_and_a_tick() -> None:
    event = parse_event("workflow_dispatch", packed(events.dispatch(models="mixtral")))
    assert isinstance(event, DispatchEvent)
    assert (event.ref, event.login, dict(event.inputs)) == ("refs/heads/main", "alice", {"models": "mixtral"})
    assert parse_event("workflow_dispatch", packed(events.recorded("workflow_dispatch") | {"inputs": None}))
    tick = parse_event("schedule", packed(events.schedule()))
    assert tick == ScheduleEvent("octo-org/framework", "main", "43 2 * * *")


def test_a_merge_group() -> None:
    found = parse_event("merge_group", packed(events.merge_group("7" * 40)))
    assert isinstance(found, MergeGroupEvent)
    assert (found.head_sha, found.action) == ("7" * 40, "checks_requested")
    assert found.head_ref.startswith("refs/heads/gh-readonly-queue/main/")
    for payload, said in (
        (events.merge_group("7" * 39), "not a full commit"),
        (events.merge_group("7" * 40) | {"action": "destroyed"}, "only 'checks_requested' starts a run"),
        (events.merge_group("7" * 40) | {"merge_group": {}}, "merge_group"),
    ):
        with pytest.raises(RequestError, match=said):
            parse_event("merge_group", packed(payload))


def bent(change: Any) -> bytes:
    payload = events.comment("x")
    change(payload)
    return packed(payload)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "event: "),
        (b"{}", "action: "),
        (b" " * (MAX_PAYLOAD_BYTES + 1), "more than GitHub sends"),
        (bent(lambda p: p["comment"].pop("body")), "comment.body"),
        (bent(lambda p: p["comment"].update(body=None)), "comment.body"),
        (bent(lambda p: p["comment"].update(user=None)), "comment.user"),
        (bent(lambda p: p["issue"].update(number="../7")), "issue.number"),
        (bent(lambda p: p["issue"].update(number=-7)), "must be positive"),
        (bent(lambda p: p["comment"]["user"].update(login="a b")), "not a GitHub login"),
        (bent(lambda p: p["comment"]["user"].update(login="a/../b")), "not a GitHub login"),
        (bent(lambda p: p["repository"].update(full_name="a/b/c")), "not owner/name"),
        (bent(lambda p: p["repository"].update(full_name="a/b?x")), "not owner/name"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_bent_payload_is_refused_in_one_line(content: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said) as refusal:
        parse_event("issue_comment", content)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_anything_else_is_refused_too(payload: Any) -> None:
    with pytest.raises(RequestError):
        parse_event("issue_comment", packed(payload))


def test_another_event_starts_nothing() -> None:
    with pytest.raises(RequestError, match="'pull_request_target' starts no run"):
        parse_event("pull_request_target", b"{}")


def test_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    with pytest.raises(RequestError, match="cannot read the event"):
        load_event("schedule", path)
    path.write_bytes(packed(events.schedule()))
    assert load_event("schedule", path).repository == "octo-org/framework"
