"""Fixtures around the stand-in, for a conftest: `from tests.standin.fixtures import hub, settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.settings import Settings
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from huggingface_hub import HfApi


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub without repositories; `hub.add("org/name", directory)`. Fails the test if a token reached the CDN."""
    with HubServer() as server:
        yield server
    assert not server.leaks(), "a token left the Hub's origin"


@pytest.fixture
def settings(hub: HubServer, tmp_path: Path) -> Settings:
    """Settings that point to `hub`, with an empty store and no token."""
    return Settings(cache=tmp_path / "hub-tests-cache", endpoint=hub.endpoint)


@pytest.fixture
def hf_api(hub: HubServer) -> Iterator[HfApi]:
    """The real huggingface_hub client on `hub`, anonymous, its connections closed afterwards."""
    from huggingface_hub import HfApi, close_session

    yield HfApi(endpoint=hub.endpoint, token=False)
    close_session()


@pytest.fixture(scope="session")
def trained_smollm2() -> Path:
    """The directory of SmolLM2-135M-Instruct with its trained weights, from the checkout's cache."""
    from tests.standin.trained import prepare_smollm2

    return prepare_smollm2()
