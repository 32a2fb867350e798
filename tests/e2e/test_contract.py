"""The guard between the service and its stand-in for GitHub must be able to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.github import pulls
from ci.github.api import ApiSettings, ConflictError
from ci.github.client import Client
from tests.e2e import contract as guard
from tests.e2e.fake_github import TOKEN, State

if TYPE_CHECKING:
    from tests.e2e.contract import Contract

pytestmark = pytest.mark.skipif(bool(guard.missing()), reason=guard.missing() or "npm is here")


@pytest.fixture
def client(contract: Contract) -> Client:
    contract.fake.reset()
    contract.violations()
    return Client(ApiSettings(State.repository, TOKEN, contract.url, max_retries=0, write_interval=0))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/issues/7/comments", {"bodi": "x"}),
        ("/issues/7/comments", {"body": 7}),
        ("/issues/comments/5/reactions", {"content": "lol"}),
        (f"/statuses/{'a' * 40}", {"state": "ok"}),
    ],
)
def test_a_bad_request_of_ours_is_caught(
    client: Client, contract: Contract, path: str, body: dict[str, object]
) -> None:
    with client, pytest.raises(ConflictError, match="422"):
        client.send("POST", path, body=body)
    assert contract.fake.log == []
    assert contract.violations()


def test_a_bad_answer_of_the_fake_is_caught(
    client: Client, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.fake.state.pulls[7] = {"state": "ajar", "sha": "a" * 40, "repository": State.repository}
    with client, pytest.raises(InfrastructureError, match="500"):
        pulls.get_pull_request(client, 7)
    assert contract.violations()
