"""Pacing, pages, redirects and the token of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.api import ApiSettings
from tests.ci.github.scripted import Scripted, Thing, make, ok, read

if TYPE_CHECKING:
    from collections.abc import Callable


def test_writes_keep_their_distance() -> None:
    server = Scripted(ok(status=201), ok(), ok(status=201))
    client = server.client()
    make(client)
    read(client)
    server.now += 0.4
    make(client)
    assert server.slept == [pytest.approx(0.6)]


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
