"""The list of a model's files, under its old name and its new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.remote import HubClient
from tests.ci.hub.samples import MODEL
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

NEW = "new-owner/renamed"


@pytest.mark.parametrize("revision", [None, "main"])
def test_a_renamed_model_keeps_its_key_and_uses_its_new_name(
    hub: HubServer, settings: Settings, repository: Path, revision: str | None
) -> None:
    hub.add(NEW, repository)
    hub.catalog.renamed[MODEL] = NEW
    hub.grant("secret")
    client = HubClient(settings)
    listing = client.get_repository(MODEL, revision)
    assert (listing.model_id, listing.hub_id) == (MODEL, NEW)
    assert listing.files["config.json"].size, "the redirect lost ?blobs=true"
    hub.log.clear()
    client.read_file(listing, "config.json", limit=10_000)
    assert [request.status for request in hub.log] == [200]


def test_the_token_does_not_follow_a_listing_elsewhere(hub: HubServer, settings: Settings, commit: str) -> None:
    """The fixture `hub` fails the test when a token reaches the other origin."""
    from dataclasses import replace

    hub.grant("secret")
    elsewhere = f"{hub.catalog.cdn}/api/models/{MODEL}"
    hub.faults.inject(Fault("status", status=307, origin="hub", headers={"Location": elsewhere}, times=None))
    with pytest.raises(InfrastructureError):
        HubClient(replace(settings, token="secret")).get_repository(MODEL, None)


def test_a_new_name_that_is_none(hub: HubServer, client: HubClient, commit: str) -> None:
    hub.faults.inject(
        Fault("status", status=307, headers={"Location": "/api/models/a--b/c"}, path=f"*/{MODEL}", times=None)
    )
    hub.add("a--b/c", next(iter(hub.catalog.repos[MODEL].commits[commit].files.values())).source.parent)
    with pytest.raises(InfrastructureError, match="without a valid name"):
        client.get_repository(MODEL, None)


def test_an_endless_list(hub: HubServer, client: HubClient, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.hub.listing.MAX_LISTING", 100)
    with pytest.raises(InfrastructureError, match="larger than the limit of 100 bytes"):
        client.get_repository(MODEL, None)
