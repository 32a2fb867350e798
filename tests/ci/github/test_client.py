"""Pacing, pages, redirects and the token of the client."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ci.errors import InfrastructureError, RequestError
from ci.github.api import ApiSettings
from ci.github.client import Client
from ci.github.context import read_context
from tests.ci.github.scripted import Scripted, Thing, make, ok, read
from tests.intercepting_proxy import CERTIFICATES, InterceptingProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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


@pytest.fixture
def enterprise(tmp_path: Path) -> Iterator[InterceptingProxy]:
    """GitHub Enterprise Server behind a proxy that breaks TLS open."""
    answer = (200, {"Content-Type": "application/json"}, b'{"id": 7}')
    with InterceptingProxy(tmp_path, ("ghe.example",), lambda _host, _path: answer) as proxy:
        yield proxy


def ask_enterprise(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], host: str = "ghe.example") -> Thing:
    """Ask a server of GitHub Enterprise with the environment that Actions and the machine give."""
    actions = {"GITHUB_API_URL": f"https://{host}/api/v3", "GITHUB_REPOSITORY": "owner/name"}
    for name in CERTIFICATES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environ, **actions, "GITHUB_TOKEN": "t"}.items():
        monkeypatch.setenv(name, value)
    settings = replace(read_context(os.environ).api, max_retries=0)
    with Client(settings) as client:
        return client.get(Thing, "/thing")


def test_a_server_behind_a_proxy_with_a_private_authority_is_reached(
    monkeypatch: pytest.MonkeyPatch, enterprise: InterceptingProxy
) -> None:
    assert ask_enterprise(monkeypatch, enterprise.trusting).id == 7
    assert enterprise.asked == ["ghe.example/api/v3/repos/owner/name/thing"]


def test_an_unknown_authority_is_named(monkeypatch: pytest.MonkeyPatch, enterprise: InterceptingProxy) -> None:
    with pytest.raises(InfrastructureError, match=r"CERTIFICATE_VERIFY_FAILED.*name its authority in SSL_CERT_FILE"):
        ask_enterprise(monkeypatch, enterprise.environ)
    assert enterprise.asked == []


def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch, enterprise: InterceptingProxy) -> None:
    around = {**enterprise.trusting, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with pytest.raises(InfrastructureError, match="Connection refused"):
        ask_enterprise(monkeypatch, around, "127.0.0.1:1")
    assert enterprise.asked == []
