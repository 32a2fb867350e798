"""A client of the stand-in for GitHub, which is held to GitHub's own description where npm's packages are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.github.api import ApiSettings
from ci.github.client import Client
from tests.e2e.conftest import contract, github
from tests.e2e.fake_github import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State

__all__ = ["contract", "github"]


@pytest.fixture
def api(github: Contract) -> ApiSettings:
    """The stand-in's address, with short waits."""
    return ApiSettings("octo-org/framework", TOKEN, github.url, first_backoff=0.01, write_interval=0.0)


@pytest.fixture
def client(api: ApiSettings) -> Iterator[Client]:
    with Client(api) as made:
        yield made


@pytest.fixture
def state(github: Contract) -> State:
    return github.fake.state
