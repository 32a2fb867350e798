"""The Hub's protocol and its failures, through the real client against the stand-in."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.hub import responses
from ci.hub.remote import HubClient, Interrupted
from tests.ci.hub.samples import MODEL
from tests.standin.wire import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

SHARD = "model-00001-of-00003.safetensors"
BIG = "big.safetensors"


@pytest.fixture
def big(repository: Path) -> bytes:
    """A file that is long enough to be read past the HTTP library."""
    content = bytes(range(256)) * 20_000
    (repository / BIG).write_bytes(content)
    return content


@pytest.fixture
def client(settings: Settings) -> HubClient:
    return HubClient(settings)


def test_pins_and_lists_in_one_request(hub: HubServer, client: HubClient, commit: str, repository: Path) -> None:
    for revision in (None, "main", commit):
        hub.log.clear()
        found = client.get_repository(MODEL, revision)
        assert found.commit == commit
        assert {path: file.size for path, file in found.files.items()} == {
            path.name: path.stat().st_size for path in repository.iterdir()
        }
        assert len(hub.log) == 1
    assert client.requests == 3


def test_ranges_are_exact_at_every_edge(hub: HubServer, big: bytes, client: HubClient, commit: str) -> None:
    found, size = client.get_repository(MODEL, None), len(big)
    for begin, end in [(0, 1), (0, size), (1, size), (size - 1, size), (7, 7), (65_535, 65_537), (100, 3_000_000)]:
        assert client.read_range(found, BIG, begin, end) == big[begin:end]
    assert {r.headers.get("accept-encoding") for r in hub.log} == {"identity"}


def test_the_hub_is_asked_once_a_file_whatever_the_ranges(hub: HubServer, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    hub.log.clear()
    threads = [threading.Thread(target=client.read_range, args=(found, SHARD, n, n + 9)) for n in range(8)]
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
    found = client.get_repository(MODEL, None)
    assert client.read_file(found, "config.json", limit=10_000) == (repository / "config.json").read_bytes()
    assert client.requests == len(hub.requests("hub")) == (3 if relative else 2)


FAULTS: list[FaultKind] = ["drop", "reset", "cut", "short", "expired"]


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("amount", [0, 100, 3_000_000])
def test_broken_connections_go_on(
    hub: HubServer, big: bytes, client: HubClient, commit: str, kind: FaultKind, amount: int
) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault(kind, amount=amount, origin="cdn", times=2))
    assert client.read_range(found, BIG, 5, len(big)) == big[5:]


@pytest.mark.parametrize("kind", ["drop", "cut"])
def test_patience_ends(hub: HubServer, client: HubClient, commit: str, kind: FaultKind) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault(kind, origin="cdn", times=None))
    with pytest.raises(InfrastructureError, match="4 times in a row") as failed:
        client.read_range(found, SHARD, 0, 100)
    assert "\n" not in str(failed.value)
    assert len(hub.requests("cdn")) == 4


def test_patience_is_for_silence_not_for_length(hub: HubServer, big: bytes, client: HubClient, commit: str) -> None:
    """Each break costs a try, each byte gives it back: a bad line ends, a bad server does not go on for ever."""
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("reset", amount=500_000, origin="cdn", times=9))
    assert client.read_range(found, BIG, 0, len(big)) == big


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("origin", ["hub", "cdn"])
def test_passing_errors_are_tried_again(
    hub: HubServer, client: HubClient, commit: str, status: int, origin: str
) -> None:
    hub.faults.inject(Fault("status", status=status, origin="hub" if origin == "hub" else "cdn", times=2))
    found = client.get_repository(MODEL, None)
    assert len(client.read_range(found, SHARD, 0, 100)) == 100


@pytest.mark.parametrize(
    ("headers", "at_least"),
    [({"Retry-After": "1"}, 1.0), ({"RateLimit": '"resolvers";r=0;t=0'}, 1.0), ({"Retry-After": "Wed, 21 Oct"}, 0.0)],
)
def test_told_waits_are_kept(
    hub: HubServer,
    client: HubClient,
    commit: str,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    at_least: float,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client, "sleep", waits.append)
    hub.faults.inject(Fault("status", status=429, headers=headers))
    client.get_repository(MODEL, None)
    assert len(waits) == 1
    assert at_least <= waits[0] <= 1.5 * max(at_least, 0.02)


def test_waits_grow_with_jitter(
    hub: HubServer, client: HubClient, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client, "sleep", waits.append)
    hub.faults.inject(Fault("status", status=503, times=3))
    client.get_repository(MODEL, None)
    for wait, least in zip(waits, (0.01, 0.02, 0.02), strict=True):
        assert least <= wait <= 1.5 * least


def test_an_expired_url_is_asked_for_again(hub: HubServer, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    first = client.read_range(found, SHARD, 0, 50)
    hub.expire_urls()
    assert client.read_range(found, SHARD, 0, 50) == first
    assert [r.status for r in hub.requests("hub")] == [200, 302, 302]


def test_a_url_that_is_never_any_good_ends(hub: HubServer, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("expired", origin="cdn", times=None))
    with pytest.raises(InfrastructureError, match="HTTP 403"):
        client.read_range(found, SHARD, 0, 50)


def test_a_server_without_ranges_is_noticed_before_the_body(
    hub: HubServer, big: bytes, client: HubClient, commit: str
) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("ignore_range", origin="cdn", times=None))
    before = client.received
    with pytest.raises(InfrastructureError, match="ignored the Range header"):
        client.read_range(found, BIG, 5, 50)
    assert client.received == before
    assert client.read_range(found, BIG, 0, len(big)) == big, "the whole file needs no range"


@pytest.mark.parametrize(("kind", "amount"), [("wrong_range", 1), ("resize", 1), ("resize", -1)])
def test_another_range_or_another_size_is_refused(
    hub: HubServer, client: HubClient, commit: str, kind: FaultKind, amount: int
) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault(kind, amount=amount, origin="cdn"))
    with pytest.raises(InfrastructureError, match="asked for bytes 5-49/"):
        client.read_range(found, SHARD, 5, 50)


def test_a_linked_size_other_than_listed_is_refused(hub: HubServer, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("resize", amount=1, origin="hub"))
    with pytest.raises(InfrastructureError, match="its listing said"):
        client.read_range(found, SHARD, 5, 50)


def test_a_small_file_with_a_flipped_bit_is_refused(hub: HubServer, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("corrupt", amount=3, file="config.json"))
    with pytest.raises(InfrastructureError, match=r"config\.json: content does not match its digest"):
        client.read_file(found, "config.json", limit=1000)


def test_a_small_file_over_its_cap_is_not_asked_for(hub: HubServer, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    with pytest.raises(InfrastructureError, match="the limit is 10"):
        client.read_file(found, "config.json", limit=10)
    assert len(hub.log) == 1


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", ""])
def test_redirects_to_anything_else_are_refused(hub: HubServer, client: HubClient, commit: str, location: str) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("status", status=302, headers={"Location": location}, origin="hub", times=None))
    with pytest.raises(InfrastructureError, match=r"refused|more than 5 redirects"):
        client.read_range(found, SHARD, 0, 10)


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
    found = client.get_repository("owner/gated", None)
    page = f"{hub.endpoint}/owner/gated"
    for path in ("config.json", SHARD):
        with pytest.raises(RequestError, match=f"owner/gated is gated: accept its terms at {page}, then set HF_TOKEN"):
            client.read_range(found, path, 0, 5)


def test_gated_with_a_token_that_has_no_access(hub: HubServer, settings: Settings, repository: Path) -> None:
    hub.add("owner/gated", repository, gated=True)
    hub.grant("mine")
    client = HubClient(replace(settings, token="mine"))
    found = client.get_repository("owner/gated", None)
    with pytest.raises(RequestError, match="has no access: request access"):
        client.read_file(found, "config.json", limit=1000)
    hub.grant("mine", "owner/gated")
    assert client.read_file(found, "config.json", limit=1000)


def test_no_hub_there(settings: Settings) -> None:
    with pytest.raises(InfrastructureError, match=r"owner/model: .*4 times in a row; check the network to http"):
        HubClient(replace(settings, endpoint="http://127.0.0.1:9")).get_repository(MODEL, None)


def test_not_a_hub(hub: HubServer, client: HubClient, commit: str) -> None:
    hub.faults.inject(Fault("status", status=200))
    with pytest.raises(InfrastructureError, match="not valid JSON"):
        client.get_repository(MODEL, None)


def test_told_to_stop(hub: HubServer, big: bytes, client: HubClient, commit: str) -> None:
    found = client.get_repository(MODEL, None)
    hub.faults.inject(Fault("slow", amount=20_000, origin="cdn"))
    threading.Timer(0.2, client.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        client.read_range(found, BIG, 0, len(big))
    assert time.monotonic() - started < 40


def test_a_long_body_is_not_shifted_by_what_came_with_the_headers(
    hub: HubServer, big: bytes, client: HubClient, commit: str
) -> None:
    """Reading past the HTTP library counts on its handing out all that it had buffered, first."""
    found = client.get_repository(MODEL, None)
    for _ in range(5):
        assert client.read_range(found, BIG, 1, len(big)) == big[1:]


def test_what_was_read_past_the_library_and_came_short_is_read_again(
    client: HubClient, big: bytes, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a library to keep back what it had buffered, all that follows would be out of its place."""
    real = responses.iter_body

    def shifted(response: Any, size: int, timeout: float, *, direct: bool) -> Iterator[bytes]:
        chunks = real(response, size, timeout, direct=direct)
        if direct:
            next(chunks)
            yield from chunks
            raise responses.TransientError("connection ended early")
        yield from chunks

    monkeypatch.setattr("ci.hub.remote.iter_body", shifted)
    assert client.read_range(client.get_repository(MODEL, None), BIG, 0, len(big)) == big
