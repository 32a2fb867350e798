"""The Hub's protocol and its failures, through the real client against the stand-in."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.remote import HubClient, Interrupted
from ci.hub.small_file_urls import SmallFileUrls
from tests.ci.hub.samples import BIG, MODEL
from tests.standin.wire import Fault, FaultKind, Link

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.repository import RemoteFile
    from ci.settings import Settings
    from tests.standin.server import HubServer

SHARD = "model-00001-of-00003.safetensors"


def test_pins_and_lists_in_one_request(hub: HubServer, client: HubClient, commit: str, repository: Path) -> None:
    for revision in (None, "main", commit):
        hub.log.clear()
        listing = client.get_repository(MODEL, revision)
        assert listing.commit == commit
        assert {path: file.size for path, file in listing.files.items()} == {
            path.name: path.stat().st_size for path in repository.iterdir()
        }
        assert len(hub.log) == 1
    assert client.requests == 3


def test_ranges_are_exact_at_every_edge(hub: HubServer, big: bytes, client: HubClient, commit: str) -> None:
    listing, size = client.get_repository(MODEL, None), len(big)
    for begin, end in [(0, 1), (0, size), (1, size), (size - 1, size), (7, 7), (65_535, 65_537), (100, 3_000_000)]:
        assert client.read_range(listing, BIG, begin, end) == big[begin:end]
    assert {r.headers.get("accept-encoding") for r in hub.log} == {"identity"}


def test_the_hub_is_asked_once_a_file_whatever_the_ranges(hub: HubServer, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    hub.log.clear()
    threads = [threading.Thread(target=client.read_range, args=(listing, SHARD, n, n + 9)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(hub.requests("hub")), len(hub.requests("cdn"))) == (1, 8)
    assert client.requests == 2


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, settings: Settings, commit: str) -> None:
    hub.grant("secret")
    client = HubClient(replace(settings, token="secret"))
    client.read_range(client.get_repository(MODEL, None), SHARD, 0, 10)
    assert [r.headers.get("authorization") for r in hub.requests("hub")] == ["Bearer secret"] * 2
    assert [r.headers.get("authorization") for r in hub.requests("cdn")] == [None]


@pytest.mark.parametrize("relative", [False, True])
def test_small_files_directly_or_over_the_detour(
    hub: HubServer, client: HubClient, commit: str, repository: Path, relative: bool
) -> None:
    hub.catalog.relative_redirects = relative
    listing = client.get_repository(MODEL, None)
    assert client.read_file(listing, "config.json", limit=10_000) == (repository / "config.json").read_bytes()
    assert client.requests == len(hub.requests("hub")) == (3 if relative else 2)


def test_only_the_first_small_file_takes_the_detour(
    hub: HubServer, client: HubClient, commit: str, repository: Path
) -> None:
    hub.catalog.relative_redirects = True
    listing = client.get_repository(MODEL, None)
    names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert client.read_file(listing, name, limit=10_000) == (repository / name).read_bytes()
    assert client.requests == len(hub.requests("hub")) == 1 + 1 + len(names)
    assert len([request for request in hub.requests("hub") if "/resolve/" in request.path]) == 1


def test_a_wrong_address_of_a_small_file_costs_a_request_and_no_more(
    hub: HubServer, client: HubClient, commit: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.catalog.relative_redirects = True
    listing = client.get_repository(MODEL, None)
    client.read_file(listing, "config.json", limit=10_000)
    right = SmallFileUrls.guess
    guesses = {"generation_config.json": "/missing/file", "tokenizer.json": "/api/models/owner/model"}

    def guess_wrongly(urls: SmallFileUrls, file: RemoteFile) -> str | None:
        return right(urls, file) and f"{hub.endpoint}{guesses[file.path]}"

    monkeypatch.setattr(SmallFileUrls, "guess", guess_wrongly)
    for name in guesses:
        before = len(hub.log)
        assert client.read_file(listing, name, limit=10_000) == (repository / name).read_bytes()
        assert len(hub.log) - before == (3 if name == "generation_config.json" else 2)


FAULTS: list[FaultKind] = ["drop", "reset", "cut", "short", "expired"]


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("amount", [0, 100, 3_000_000])
def test_broken_connections_go_on(
    hub: HubServer, big: bytes, client: HubClient, commit: str, kind: FaultKind, amount: int
) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault(kind, amount=amount, origin="cdn", times=2))
    assert client.read_range(listing, BIG, 5, len(big)) == big[5:]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("origin", ["hub", "cdn"])
def test_passing_errors_are_tried_again(
    hub: HubServer, client: HubClient, commit: str, status: int, origin: str
) -> None:
    hub.faults.inject(Fault("status", status=status, origin="hub" if origin == "hub" else "cdn", times=2))
    listing = client.get_repository(MODEL, None)
    assert len(client.read_range(listing, SHARD, 0, 100)) == 100


def test_an_expired_url_is_asked_for_again(hub: HubServer, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    first = client.read_range(listing, SHARD, 0, 50)
    hub.expire_urls()
    assert client.read_range(listing, SHARD, 0, 50) == first
    assert [r.status for r in hub.requests("hub")] == [200, 302, 302]


def test_a_url_that_is_never_any_good_ends(hub: HubServer, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("expired", origin="cdn", times=None))
    with pytest.raises(InfrastructureError, match="HTTP 403"):
        client.read_range(listing, SHARD, 0, 50)


def test_a_small_file_with_a_flipped_bit_is_refused(hub: HubServer, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("corrupt", amount=3, file="config.json", times=None))
    with pytest.raises(InfrastructureError, match=r"config\.json: content does not match its digest"):
        client.read_file(listing, "config.json", limit=1000)


def test_a_small_file_over_its_cap_is_not_asked_for(hub: HubServer, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    with pytest.raises(InfrastructureError, match="the limit is 10"):
        client.read_file(listing, "config.json", limit=10)
    assert len(hub.log) == 1


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", ""])
def test_redirects_to_anything_else_are_refused(hub: HubServer, client: HubClient, commit: str, location: str) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("status", status=302, headers={"Location": location}, origin="hub", times=None))
    with pytest.raises(InfrastructureError, match=r"refused|more than 5 redirects"):
        client.read_range(listing, SHARD, 0, 10)


def test_not_a_hub(hub: HubServer, client: HubClient, commit: str) -> None:
    hub.faults.inject(Fault("status", status=200, times=None))
    with pytest.raises(InfrastructureError, match="not valid JSON"):
        client.get_repository(MODEL, None)


def test_told_to_stop(hub: HubServer, big: bytes, client: HubClient, commit: str) -> None:
    listing = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("slow", amount=20_000, origin="cdn"))
    threading.Timer(0.2, client.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        client.read_range(listing, BIG, 0, len(big))
    assert time.monotonic() - started < 90


def test_reads_that_come_late_are_told_from_those_that_wait(
    hub: HubServer, settings: Settings, big: bytes, commit: str
) -> None:
    late, early = HubClient(settings), HubClient(settings)
    late.stream_range(late.get_repository(MODEL, None), BIG, (0, len(big)), lambda *_: time.sleep(0.02))
    hub.link = Link(rate=5e6)
    early.stream_range(early.get_repository(MODEL, None), BIG, (0, len(big)), lambda *_: None)
    for client, is_late in ((late, True), (early, False)):
        counts = client.measure()
        assert counts.received >= len(big)
        assert counts.reads
        assert (counts.late > counts.reads / 2) is is_late, counts
