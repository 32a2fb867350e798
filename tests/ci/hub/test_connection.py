"""One request: the limits on its time, and where a redirect may lead."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError
from ci.hub import connection as connection_module
from ci.hub.connection import HubConnection, parse_origin
from ci.hub.responses import OddAnswerError, SlowError
from ci.settings import NetworkLimits
from tests.ci.hub.samples import MODEL
from tests.intercepting_proxy import InterceptingProxy
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer


class Redirect:
    def __init__(self, location: str | None) -> None:
        self.headers = {} if location is None else {"Location": location}


def limited(settings: Settings, **limits: Any) -> HubConnection:
    return HubConnection(replace(settings, network=NetworkLimits(**limits)))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "http://hub:80/b"),
        ("http://other/x?y", "http://other/x?y"),
        ("https://cdn/x", "https://cdn/x"),
        ("//cdn/x", "http://cdn/x"),
    ],
)
def test_redirects_are_resolved(settings: Settings, location: str, target: str) -> None:
    assert HubConnection(settings).resolve_redirect("http://hub:80/a", Redirect(location)) == target


@pytest.mark.parametrize(
    "location", [None, "", "http://[::1", "http://h:99999999/", "http://:1/", "ftp://h/", "file:///x"]
)
def test_other_redirects_are_refused(settings: Settings, location: str | None) -> None:
    with pytest.raises(OddAnswerError, match="refused"):
        HubConnection(settings).resolve_redirect("http://hub:80/a", Redirect(location))


def test_https_does_not_become_http(settings: Settings) -> None:
    with pytest.raises(OddAnswerError, match="expected an https address"):
        HubConnection(settings).resolve_redirect("https://hub/a", Redirect("http://hub/a"))


def test_a_body_below_the_minimum_rate_is_slow(
    hub: HubServer, settings: Settings, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "time", SimpleNamespace(monotonic=lambda: 60 * time.monotonic()))
    connection = limited(settings, timeout=30.0, minimum_rate=1000.0)  # half a second by that clock
    hub.faults.inject(Fault("slow", amount=15))
    url = f"{hub.endpoint}/{MODEL}/resolve/main/tokenizer.json"
    with pytest.raises(SlowError, match=r"only \d+ bytes came in"), connection.open(url, {}) as response:
        list(connection.iter_chunks(response, 0))
    unlimited = limited(settings, timeout=30.0, minimum_rate=0.0)
    hub.faults.inject(Fault("slow", amount=15))
    with unlimited.open(url, {}) as response:
        assert b"".join(unlimited.iter_chunks(response, 0))


def test_nothing_is_sent_or_awaited_after_the_deadline(hub: HubServer, settings: Settings, commit: str) -> None:
    connection = limited(settings, deadline=0.2)
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"longer than 0\.2 s"):
        connection.sleep(600)
    assert time.monotonic() - started < 200
    with pytest.raises(InfrastructureError, match="HUB_TESTS_DEADLINE"), connection.open(hub.endpoint, {}):
        pass
    assert hub.log == []


def test_origins() -> None:
    assert parse_origin("https://Hub.co/x") == parse_origin("https://hub.co:443/")
    assert parse_origin("http://hub.co/") != parse_origin("https://hub.co/")


ASK = """
import sys
from ci.errors import HubTestsError
from ci.hub.connection import HubConnection
from ci.settings import from_environ
import os
settings = from_environ(os.environ)
try:
    with HubConnection(settings).open(settings.endpoint + "/model/resolve/main/config.json", {}) as response:
        print(response.status_code)
except Exception as error:
    print(type(error).__name__, "CERTIFICATE_VERIFY_FAILED" in str(error))
"""
"""A process of its own: huggingface_hub keeps one session with the proxy and the authorities of its first request."""


def test_a_hub_behind_a_proxy_with_a_private_authority_is_reached(tmp_path: Path) -> None:
    def ask(environ: dict[str, str]) -> str:
        words = [sys.executable, "-c", ASK]
        every = {**environ, "HF_ENDPOINT": "https://hub.example"}
        return subprocess.run(
            words, env=every, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
        ).stdout.strip()

    with InterceptingProxy(tmp_path, ("hub.example",), lambda _host, _path: (200, {}, b"{}")) as proxy:
        assert ask(proxy.trusting) == "200"
        assert proxy.asked == ["hub.example/model/resolve/main/config.json"]
        assert ask(proxy.environ).endswith("True")
        assert ask({**proxy.trusting, "NO_PROXY": "hub.example", "no_proxy": "hub.example"}).endswith("False")
        assert len(proxy.asked) == 1
