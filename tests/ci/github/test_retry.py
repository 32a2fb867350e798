"""Which failures of GitHub are retried, and how long; and the errors that people read."""

from __future__ import annotations

import httpx
import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.api import ConflictError, NotFoundError
from tests.ci.github.scripted import Scripted, Thing, make, no, ok, read


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_passing_failure_is_waited_out(status: int) -> None:
    server = Scripted(no(status), no(status), ok())
    assert read(server.client()) == Thing(1)
    first, second = server.slept
    assert 0.5 <= first <= 1.5
    assert 1.0 <= second <= 3.0


def test_what_makes_something_is_not_repeated_when_it_may_have_been_made() -> None:
    for failure in (no(502), httpx.ReadTimeout("late"), httpx.RemoteProtocolError("cut")):
        server = Scripted(failure)
        with pytest.raises(InfrastructureError):
            make(server.client())
        assert len(server.requests) == 1


def test_what_never_arrived_is_repeated() -> None:
    server = Scripted(httpx.ConnectError("refused"), ok(status=201))
    assert make(server.client()) == Thing(1)


@pytest.mark.parametrize(
    ("answer", "least"),
    [
        (no(403, "You have exceeded a secondary rate limit", retry_after="7"), 7),
        (no(429, "slow down", retry_after="3"), 3),
        (no(429, "slow down"), 60),
        (no(403, "You have exceeded a secondary rate limit."), 60),
        (no(403, "API rate limit exceeded", x_ratelimit_remaining="0", x_ratelimit_reset="1"), 0),
    ],
)
def test_rate_limits_are_waited_out_also_for_writes(answer: httpx.Response, least: float) -> None:
    server = Scripted(answer, ok(status=201))
    assert make(server.client()) == Thing(1)
    assert least <= server.slept[0] <= least + 1


def test_a_long_rate_limit_is_said_and_not_waited_out() -> None:
    server = Scripted(no(403, "limit", retry_after="5000"))
    with pytest.raises(InfrastructureError, match="rate limit, it ends in 5000 s"):
        read(server.client())
    assert server.slept == []


def test_patience_ends() -> None:
    server = Scripted(*[no(503)] * 5)
    with pytest.raises(InfrastructureError, match="503"):
        read(server.client())
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (no(404), NotFoundError, "not found"),
        (no(409, "merge conflict"), ConflictError, "merge conflict"),
        (no(422, "not a fast forward"), ConflictError, "fast forward"),
        (
            no(403, "Resource not accessible", x_accepted_github_permissions="issues=write"),
            RequestError,
            "issues=write",
        ),
        (no(401, "Bad credentials"), RequestError, "Bad credentials"),
        (no(400, "a\nb"), RequestError, "a b"),
        (httpx.Response(200, content=b"<html>"), InfrastructureError, "cannot be read"),
        (ok({"id": "x"}), InfrastructureError, "id: "),
        (ok([]), InfrastructureError, "GitHub's /thing"),
    ],
)
def test_answers_in_plain_words(answer: httpx.Response, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as refusal:
        read(Scripted(answer).client())
    assert "\n" not in str(refusal.value)
    assert type(refusal.value) is kind
