"""Small repositories and the stand-in Hub that serves them to the real client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.hub import lease
from ci.hub.remote import HubClient
from ci.hub.retry import RetryPolicy
from ci.hub.store import Store
from ci.settings import NetworkLimits
from tests.ci.hub.samples import BIG, MODEL, make_repository
from tests.standin.fixtures import hub
from tests.standin.fixtures import settings as standin_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

__all__ = ["hub", "standin_settings"]


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    from huggingface_hub import close_session

    close_session()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as in earnest, without the waits."""
    quick = RetryPolicy(tries=4, first=0.01, longest=0.02)
    monkeypatch.setattr("ci.hub.remote.RetryPolicy", lambda: quick)


@pytest.fixture
def settings(standin_settings: Settings) -> Settings:
    """Settings that point to `hub` and do not wait long."""
    return replace(standin_settings, network=NetworkLimits(timeout=5.0))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model of 5 layers in 3 shards."""
    return make_repository(tmp_path / "repository")


@pytest.fixture
def commit(hub: HubServer, repository: Path) -> str:
    """The model, served as `owner/model`."""
    return hub.add(MODEL, repository)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create_directories()
    return made


@pytest.fixture
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread renew this process's leases, so that a test may set their times."""
    monkeypatch.setattr(lease._HeldLeases, "_beat", lambda _: None)
    monkeypatch.setattr(lease, "_held", lease._HeldLeases())


@pytest.fixture
def big(repository: Path) -> bytes:
    """A file that is long enough to be read past the HTTP library."""
    content = bytes(range(256)) * 20_000
    (repository / BIG).write_bytes(content)
    return content


@pytest.fixture
def client(settings: Settings) -> HubClient:
    return HubClient(settings)
