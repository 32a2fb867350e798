"""Guards around every test but the hub suite: its own environment, and no connection out of this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["tests.skip_policy"]

HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
REMOVED = ("HF_", "HUGGING", "HUB_TESTS_", "GITHUB_", "TRANSFORMERS_")
HUB_PATHS = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_XET_CACHE": "xet", "HF_TOKEN_PATH": "token"}
LONG_FOLDERS = tuple(Path(__file__).parent / name for name in ("e2e", "benchmarks/mutation"))
LONGEST_ID = 200
"""Characters of a parameter's id. Linux refuses to start a process with a variable of 128 KiB."""
LOOPBACK_NAMES = {None, "", "localhost", b"localhost"}


def talks_to_the_hub(request: pytest.FixtureRequest) -> bool:
    """Return whether a test is of the hub suite: it alone uses the user's environment and the network."""
    return "integration" in request.path.parts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole folders as long: the workflows' steps as processes, and planted bugs."""
    for item in items:
        if not set(LONG_FOLDERS).isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.long)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten the id of a long text: pytest puts it into an environment variable that processes are started with."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_ID:
        return f"{val[:40]!a} and more, {len(val)} in all"
    return None


@pytest.fixture(autouse=True)
def own_environment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test its own HOME and XDG directories, and no settings of the Hub or of Actions."""
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
def no_leases_left() -> Iterator[None]:
    """Release the leases of stores that the test took in this process: each keeps a file open."""
    yield
    if lease := sys.modules.get("ci.hub.lease"):
        lease.release_all()


@pytest.fixture(autouse=True)
def loopback_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that connects or looks up a name outside this machine, even if it catches the error."""
    if talks_to_the_hub(request):
        yield
        return
    attempts: list[str] = []
    for owner, name, find_host in (
        (socket.socket, "connect", peer_host),
        (socket.socket, "connect_ex", peer_host),
        (socket, "getaddrinfo", looked_up_host),
    ):
        monkeypatch.setattr(owner, name, refuse_other_hosts(getattr(owner, name), find_host, attempts))
    yield
    assert not attempts, f"the test tried to reach {attempts}: tests stay on loopback"


def refuse_other_hosts(
    call: Callable[..., Any], find_host: Callable[..., Any], attempts: list[str]
) -> Callable[..., Any]:
    """Wrap `call` so that it refuses, and records, any host but this machine."""

    def checked(*args: Any, **kwargs: Any) -> Any:
        host = find_host(*args, **kwargs)
        if not is_loopback(host):
            attempts.append(str(host))
            pytest.fail(f"the test tried to reach {host!r}: tests stay on loopback")
        return call(*args, **kwargs)

    return checked


def peer_host(sock: socket.socket, address: Any) -> Any:
    """Return the host that a socket connects to; None for a Unix socket, which is this machine."""
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def looked_up_host(host: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the host that getaddrinfo looks up."""
    return host


def is_loopback(host: Any) -> bool:
    """Return whether a host, as given to connect or getaddrinfo, is this machine."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False
