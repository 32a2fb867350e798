"""A client of the stand-in for GitHub, which is held to GitHub's own description where npm's packages are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.github.api import Api
from ci.github.client import Client
from tests.e2e.conftest import contract, github
from tests.e2e.fake_github import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import State

__all__ = ["contract", "github"]


@pytest.fixture
def api(github: Contract) -> Api:
    """The stand-in's address, with short waits."""
    return Api("octo-org/framework", TOKEN, github.url, first_wait=0.01, between_writes=0.0)


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    with Client(api) as made:
        yield made


@pytest.fixture
def state(github: Contract) -> State:
    return github.fake.state
