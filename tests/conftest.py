"""Guards around every test but the hub suite: an environment of its own, and no way out of this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest_plugins = ["tests.skip_policy"]

HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
REMOVED = ("HF_", "HUGGING", "HUB_TESTS_", "GITHUB_", "TRANSFORMERS_")
HUB_PATHS = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_XET_CACHE": "xet", "HF_TOKEN_PATH": "token"}
LOOPBACK_NAMES = {None, "", "localhost", b"localhost"}


def talks_to_the_hub(request: pytest.FixtureRequest) -> bool:
    """The hub suite itself reads the user's environment and the network; everything else must not."""
    return "integration" in request.path.parts


@pytest.fixture(autouse=True)
def own_environment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME and the XDG directories inside the test's own directory; no setting of the Hub or of Actions."""
    if talks_to_the_hub(request):
        return
    for name in list(os.environ):
        if name.startswith(REMOVED):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name in HOMES:
        monkeypatch.setenv(name, str(home / name.lower()))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    if constants := sys.modules.get("huggingface_hub.constants"):  # it read the environment when it was imported
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        for name, folder in HUB_PATHS.items():
            monkeypatch.setattr(constants, name, str(home / "huggingface" / folder))


@pytest.fixture(autouse=True)
def loopback_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection or a name look-up that would leave this machine fails the test, whoever catches the exception."""
    if talks_to_the_hub(request):
        yield
        return
    attempts: list[str] = []
    for owner, name, host_of in (
        (socket.socket, "connect", peer),
        (socket.socket, "connect_ex", peer),
        (socket, "getaddrinfo", looked_up),
    ):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name), host_of, attempts))
    yield
    assert not attempts, f"the test tried to reach {attempts}: tests stay on loopback"


def guarded(call: Callable[..., Any], host_of: Callable[..., Any], attempts: list[str]) -> Callable[..., Any]:
    """`call`, refusing and recording any host that is not this machine."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        host = host_of(*args, **kwargs)
        if not is_loopback(host):
            attempts.append(str(host))
            pytest.fail(f"the test tried to reach {host!r}: tests stay on loopback")
        return call(*args, **kwargs)

    return checked


def peer(sock: socket.socket, address: Any) -> Any:
    """The host that a socket is about to connect to; a Unix socket's is this machine."""
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def looked_up(host: Any, *args: Any, **kwargs: Any) -> Any:
    """The host that getaddrinfo is about to look up."""
    return host


def is_loopback(host: Any) -> bool:
    """Whether a host, as given to connect or getaddrinfo, is this machine."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False
