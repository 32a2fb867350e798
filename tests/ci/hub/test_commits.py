"""The revisions of a model: in pages, newest first, and as huggingface_hub lists them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi

from ci.errors import InfrastructureError, RequestError
from ci.hub import remote
from ci.hub.remote import HubClient
from tests.ci.hub.samples import MODEL
from tests.standin import answers, server
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer
    from tests.standin.wire import Reply

NOTHING = "f" * 40


@pytest.fixture
def history(hub: HubServer, tmp_path: Path) -> list[str]:
    """Five revisions of a model, oldest first."""
    commits = []
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"number": number}))
        commits.append(hub.add(MODEL, folder))
    return commits


@pytest.mark.parametrize("page_size", [1000, 2, 1])
def test_the_commits_of_all_pages_are_those_that_huggingface_hub_lists(
    hub: HubServer, client: HubClient, history: list[str], page_size: int
) -> None:
    hub.catalog.page_size = page_size
    commits = client.list_commits(MODEL, "main", NOTHING)
    assert [commit.id for commit in commits] == history[::-1]
    assert (commits[0].title, commits[0].date) == ("Upload number 4", "2025-01-05")
    listed = HfApi(endpoint=hub.endpoint, token=False).list_repo_commits(MODEL)
    assert [commit.commit_id for commit in listed] == history[::-1]
    assert [commit.title for commit in listed] == [commit.title for commit in commits]


def test_no_page_is_asked_for_beyond_what_is_looked_for(
    hub: HubServer, client: HubClient, history: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.catalog.page_size = 1
    assert [commit.id for commit in client.list_commits(MODEL, history[3], history[2])] == [history[3], history[2]]
    assert len(hub.log) == 2
    monkeypatch.setattr(remote, "MAX_COMMITS", 2)
    assert len(client.list_commits(MODEL, "main", NOTHING)) == 3


def test_a_page_that_fails_is_asked_for_again(hub: HubServer, client: HubClient, history: list[str]) -> None:
    hub.catalog.page_size = 2
    hub.faults.inject(Fault("status", status=503, path="*/commits/main", times=2))
    assert [commit.id for commit in client.list_commits(MODEL, "main", NOTHING)] == history[::-1]


def test_a_renamed_models_commits_are_found(hub: HubServer, client: HubClient, history: list[str]) -> None:
    hub.catalog.renamed["old/name"] = MODEL
    assert len(client.list_commits("old/name", "main", NOTHING)) == 5


def test_what_does_not_exist_is_said(client: HubClient, history: list[str]) -> None:
    with pytest.raises(RequestError, match="nothing-here"):
        client.list_commits(MODEL, "nothing-here", NOTHING)


def change_lists(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Reply], Reply]) -> None:
    """Let the stand-in answer something else where it lists commits."""
    answer = answers.answer_hub

    def changed(catalog: Any, request: Any) -> Reply:
        reply = answer(catalog, request)
        return change(catalog, reply) if "/commits/" in request.path else reply

    monkeypatch.setattr(server, "answer_hub", changed)


@pytest.mark.parametrize("body", [b"<html>", b'{"error": 1}', b'[{"id": "x"}]', b"[1]", b"[{}]", b"null"])
def test_what_is_no_list_of_commits_is_said(
    client: HubClient, history: list[str], monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    change_lists(monkeypatch, lambda _, reply: replace(reply, body=body))
    with pytest.raises(InfrastructureError, match="not a list of commits; is HF_ENDPOINT a Hub"):
        client.list_commits(MODEL, "main", NOTHING)


def test_the_next_page_is_never_elsewhere(
    hub: HubServer, settings: Settings, history: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture `hub` fails the test when a token reaches the other origin."""
    hub.grant("secret")
    change_lists(
        monkeypatch,
        lambda catalog, reply: replace(reply, headers={**reply.headers, "Link": f'<{catalog.cdn}/api>; rel="next"'}),
    )
    with pytest.raises(InfrastructureError, match="the next page of the commits is not on the Hub"):
        HubClient(replace(settings, token="secret")).list_commits(MODEL, "main", NOTHING)
