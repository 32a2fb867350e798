"""What the Hub's answers mean, asked of the stand-in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.hub import responses
from ci.hub.remote import HubClient
from tests.ci.hub.samples import BIG, MODEL
from tests.standin.wire import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer


def test_a_server_without_ranges_is_noticed_before_the_body(
    hub: HubServer, big: bytes, client: HubClient, commit: str
) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("ignore_range", origin="cdn", times=None))
    before = client.received
    with pytest.raises(InfrastructureError, match="ignored the Range header"):
        client.read_range(listing, BIG, 5, 50)
    assert client.received == before
    assert client.read_range(listing, BIG, 0, len(big)) == big, "the whole file needs no range"


SHARD = "model-00001-of-00003.safetensors"


@pytest.mark.parametrize(("kind", "amount"), [("wrong_range", 1), ("resize", 1), ("resize", -1)])
def test_another_range_or_another_size_is_refused(
    hub: HubServer, client: HubClient, commit: str, kind: FaultKind, amount: int
) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault(kind, amount=amount, origin="cdn", times=None))
    with pytest.raises(InfrastructureError, match="asked for bytes 5-49/"):
        client.read_range(listing, SHARD, 5, 50)


def test_a_linked_size_other_than_listed_is_refused(hub: HubServer, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("resize", amount=1, origin="hub", times=None))
    with pytest.raises(InfrastructureError, match="its listing said"):
        client.read_range(listing, SHARD, 5, 50)


def test_unknown_model(settings: Settings, commit: str) -> None:
    with pytest.raises(RequestError, match=r"no model 'owner/other' at http://127.*set HF_TOKEN"):
        HubClient(settings).get_repository("owner/other", None)


def test_unknown_revision(client: HubClient, commit: str) -> None:
    with pytest.raises(RequestError, match="owner/model has no revision 'v9'"):
        client.get_repository(MODEL, "v9")


def test_a_token_that_is_not_valid(settings: Settings, commit: str) -> None:
    with pytest.raises(RequestError, match="does not accept the token in HF_TOKEN"):
        HubClient(replace(settings, token="wrong")).get_repository(MODEL, None)


def test_gated_without_a_token_names_variable_and_page(hub: HubServer, settings: Settings, repository: Path) -> None:
    hub.add("owner/gated", repository, gated=True)
    client = HubClient(settings)
    listing = client.get_repository("owner/gated", None)
    page = f"{hub.endpoint}/owner/gated"
    for path in ("config.json", SHARD):
        with pytest.raises(RequestError, match=f"owner/gated is gated: accept its terms at {page}, then set HF_TOKEN"):
            client.read_range(listing, path, 0, 5)


def test_gated_with_a_token_that_has_no_access(hub: HubServer, settings: Settings, repository: Path) -> None:
    hub.add("owner/gated", repository, gated=True)
    hub.grant("mine")
    client = HubClient(replace(settings, token="mine"))
    listing = client.get_repository("owner/gated", None)
    with pytest.raises(RequestError, match="has no access: request access"):
        client.read_file(listing, "config.json", limit=1000)
    hub.grant("mine", "owner/gated")
    assert client.read_file(listing, "config.json", limit=1000)


def test_a_long_body_is_not_shifted_by_what_came_with_the_headers(
    hub: HubServer, big: bytes, client: HubClient, commit: str
) -> None:
    """Reading past the HTTP library counts on its handing out all that it had buffered, first."""
    listing = client.get_repository(MODEL, None)
    for _ in range(5):
        assert client.read_range(listing, BIG, 1, len(big)) == big[1:]


def test_what_was_read_past_the_library_and_came_short_is_read_again(
    client: HubClient, big: bytes, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a library kept buffered bytes back, everything after them would be at the wrong place."""
    real = responses.iter_body

    def shifted(response: Any, size: int, timeout: float, *, direct: bool, latency: float) -> Iterator[bytes]:
        chunks = real(response, size, timeout, direct=direct)
        if direct:
            next(chunks)
            yield from chunks
            raise responses.TransientError("connection ended early")
        yield from chunks

    monkeypatch.setattr("ci.hub.connection.iter_body", shifted)
    assert client.read_range(client.get_repository(MODEL, None), BIG, 0, len(big)) == big
