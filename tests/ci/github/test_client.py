"""Retries, rate limits, pacing and plain words for what GitHub answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.api import ApiSettings, ConflictError, NotFoundError
from ci.github.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Thing:
    id: int


class Scripted:
    """A GitHub that gives the prepared answers in order; `slept` collects the waits."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now = 100.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def client(self, **changes: Any) -> Client:
        api = ApiSettings("o/r", "t", "http://127.0.0.1:1", **changes)
        return Client(api, sleep=self.sleep, clock=lambda: self.now, transport=httpx.MockTransport(self))


def ok(body: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json={"id": 1} if body is None else body)


def no(status: int, message: str = "no", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"message": message}, headers=named)


def read(client: Client) -> Thing:
    return client.get(Thing, "/thing")


def make(client: Client) -> Thing:
    return client.write(Thing, "POST", "/things", {})


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


def test_writes_keep_their_distance() -> None:
    server = Scripted(ok(status=201), ok(), ok(status=201))
    client = server.client()
    make(client)
    read(client)
    server.now += 0.4
    make(client)
    assert server.slept == [pytest.approx(0.6)]


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


def test_the_token_is_sent_and_never_shown() -> None:
    server = Scripted(ok())
    client = server.client()
    read(client)
    assert server.requests[0].headers["Authorization"].endswith(" t")
    assert "secret" not in repr(ApiSettings("o/r", "secret"))


def test_pages_are_read_to_the_end() -> None:
    whole, rest = [{"id": n} for n in range(100)], [{"id": 100}]
    server = Scripted(ok({"jobs": whole}), ok({"jobs": rest}))
    assert [thing.id for thing in server.client().paginate(Thing, "/jobs", key="jobs")] == list(range(101))
    assert [request.url.params["page"] for request in server.requests] == ["1", "2"]


@pytest.mark.parametrize("body", [{"message": "x"}, "x", {"jobs": None}])
def test_a_listing_that_is_none_is_refused(body: Any) -> None:
    with pytest.raises(InfrastructureError, match="expected a list"):
        list(Scripted(ok(body)).client().paginate(Thing, "/jobs", key="jobs"))


def test_a_redirect_is_not_followed() -> None:
    """A redirect would carry the token to wherever it points."""
    call: Callable[[], Thing] = lambda: read(  # noqa: E731
        Scripted(httpx.Response(302, headers={"Location": "http://127.0.0.1:2/"})).client()
    )
    with pytest.raises((InfrastructureError, RequestError)):
        call()
