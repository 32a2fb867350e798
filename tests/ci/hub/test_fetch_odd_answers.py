"""One odd answer anywhere in a fetch is asked again; if it stays, one line blames the network. Never wrong bytes."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub import connection
from ci.hub.fetch import fetch
from ci.hub.header import TensorInfo, write_header
from ci.hub.journal import has_complete_pieces
from ci.hub.manifest import MANIFEST
from ci.hub.piece_plan import MIN_PIECE
from ci.hub.store import Store
from ci.hub.weights import HEADER_PROBE
from ci.settings import NetworkLimits
from tests.ci.hub.samples import (
    CONFIG,
    MODEL,
    REQUEST,
    first_layers,
    make_repository,
    model_shapes,
    read_tensors,
    stored_tensors,
    upstream_tensors,
    write_json,
)
from tests.standin.wire import Fault, FaultKind

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer

KINDS: dict[FaultKind, int] = {
    "drop": 0,
    "reset": 4,
    "cut": 4,
    "short": 1,
    "extra": 1,
    "chunked": 1,
    "gzip": 0,
    "empty": 0,
    "portal": 0,
    "loop": 0,
    "ignore_range": 0,
    "wrong_range": 1,
    "resize": 1,
    "expired": 0,
    "corrupt": 200,
}
PLACES = {
    "list": Fault("drop", origin="hub", path="/api/models/*"),
    "config": Fault("drop", file="config.json"),
    "index": Fault("drop", file="model.safetensors.index.json"),
    "companion": Fault("drop", file="tokenizer.json"),
    "signed URL": Fault("drop", origin="hub", file="model-00001-of-00003.safetensors"),
    "header": Fault("drop", origin="cdn", file="model-00001-of-00003.safetensors"),
    "tensors": Fault("drop", origin="cdn", file="model-00001-of-00003.safetensors", skip=1),
}
NEEDS_RANGE = ("ignore_range", "wrong_range", "resize")
NO_SUCH_ANSWER = {
    ("list", "ignore_range"), ("list", "wrong_range"), ("list", "resize"), ("list", "corrupt"), ("list", "short"),
    *((place, kind) for place in ("config", "index", "companion") for kind in NEEDS_RANGE),
    *(("signed URL", kind) for kind in ("ignore_range", "wrong_range", "corrupt", "short", "extra", "chunked", "gzip")),
    *(("signed URL", kind) for kind in ("reset", "cut")),
}  # fmt: skip
"""Faults that change nothing there: no range, no body, or a change that is harmless."""
UNSEEN = {("tensors", "corrupt")}
"""What nobody can see: the Hub publishes no digest of a part of a file."""


CASES = [(place, kind) for place in PLACES for kind in KINDS if (place, kind) not in NO_SUCH_ANSWER | UNSEEN]


@pytest.mark.parametrize(("place", "kind"), CASES)
def test_once_is_asked_again(
    hub: HubServer, settings: Settings, commit: str, repository: Path, place: str, kind: FaultKind
) -> None:
    hub.faults.inject(replace(PLACES[place], kind=kind, amount=KINDS[kind], times=1))
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == first_layers(repository, 2)
    assert not hub.faults, "the fault was never asked for"
    assert [entry.state for entry in Store(settings.cache).verify()] == ["complete"]


@pytest.mark.parametrize(("place", "kind"), CASES)
def test_always_is_one_line_about_the_network(
    hub: HubServer, settings: Settings, commit: str, place: str, kind: FaultKind
) -> None:
    hub.faults.inject(replace(PLACES[place], kind=kind, amount=KINDS[kind], times=None))
    with pytest.raises(InfrastructureError) as failed:
        fetch(REQUEST, settings)
    assert type(failed.value) is InfrastructureError
    assert "\n" not in str(failed.value)
    assert not list(settings.cache.rglob(MANIFEST))


WHOLE = replace(REQUEST, layers=5)
SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


@pytest.mark.parametrize("skip", [0, 1])
def test_a_flipped_byte_of_a_whole_file_is_found_and_asked_for_again(
    hub: HubServer, settings: Settings, commit: str, repository: Path, skip: int
) -> None:
    """Of a file that is kept whole the Hub publishes the digest. The first request reads the header, then the rest."""
    hub.faults.inject(Fault("corrupt", amount=700, origin="cdn", file=SHARDS[0], skip=skip))
    checkpoint = fetch(WHOLE, settings)
    assert not hub.faults
    assert stored_tensors(checkpoint) == upstream_tensors(repository)
    assert checkpoint.not_verified_upstream == ()


def test_wrong_bytes_of_a_whole_file_that_stay_are_refused(
    hub: HubServer, settings: Settings, commit: str, repository: Path
) -> None:
    hub.faults.inject(Fault("corrupt", amount=700, origin="cdn", file=SHARDS[0], skip=1, times=None))
    with pytest.raises(InfrastructureError, match=rf"{SHARDS[0]}: content does not match its digest, 3 times in a row"):
        fetch(WHOLE, settings)
    assert not list(settings.cache.rglob(MANIFEST))
    hub.faults.clear()
    assert stored_tensors(fetch(WHOLE, settings)) == upstream_tensors(repository), "the bad parts were gone on from"


def test_what_cannot_be_verified_is_named(hub: HubServer, settings: Settings, commit: str) -> None:
    """The Hub publishes no digest of a part of a file."""
    checkpoint = fetch(REQUEST, settings)
    assert checkpoint.not_verified_upstream == (SHARDS[1], SHARDS[2])
    manifest = json.loads((Path(checkpoint.path) / MANIFEST).read_text())
    assert manifest["not_verified_upstream"] == [SHARDS[1], SHARDS[2]]
    assert fetch(replace(REQUEST, revision=commit), settings).not_verified_upstream == (SHARDS[1], SHARDS[2])


def test_without_published_digests_nothing_is_verified(hub: HubServer, settings: Settings, commit: str) -> None:
    hub.catalog.lists_digests = False
    assert fetch(WHOLE, settings).not_verified_upstream == SHARDS


@pytest.mark.parametrize("query", [True, False])
def test_a_renamed_model(hub: HubServer, settings: Settings, repository: Path, query: bool) -> None:
    """The old name redirects on the API and on files; later requests use the new one."""
    hub.add("new-owner/renamed", repository)
    hub.catalog.renamed[MODEL] = "new-owner/renamed"
    checkpoint = fetch(REQUEST, settings)
    assert (checkpoint.model_id, checkpoint.cache) == (MODEL, "miss")
    assert stored_tensors(checkpoint) == first_layers(repository, 2)
    assert checkpoint.notes == (f"the Hub has renamed {MODEL} to new-owner/renamed: use the new name",)
    assert [request.status for request in hub.requests("hub")].count(307) == 1


def test_a_renamed_model_on_its_file_addresses_only(
    hub: HubServer, settings: Settings, commit: str, repository: Path
) -> None:
    hub.add("new-owner/renamed", repository)
    hub.faults.inject(
        Fault("status", status=307, path=f"/{MODEL}/resolve/*/config.json", headers={
            "Location": f"/new-owner/renamed/resolve/{commit}/config.json"}, times=None)
    )  # fmt: skip
    assert stored_tensors(fetch(REQUEST, settings)) == first_layers(repository, 2)


LOCATIONS = [
    "http://[::1",
    "https://host:99999999/x",
    "//",
    "http://:80/x",
    "https://a b/\x01",
    "ftp://host/x",
    "",
]


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("path", ["/api/models/*", "*/config.json", "*.safetensors"])
def test_a_malformed_location_is_one_line(
    hub: HubServer, settings: Settings, commit: str, location: str, path: str
) -> None:
    hub.faults.inject(Fault("status", status=302, path=path, headers={"Location": location}, times=None))
    with pytest.raises(InfrastructureError) as failed:
        fetch(REQUEST, settings)
    assert "\n" not in str(failed.value)
    hub.faults.clear()
    hub.faults.inject(Fault("status", status=302, path=path, headers={"Location": location}))
    fetch(REQUEST, settings)


@pytest.mark.parametrize("path", ["/api/models/*", "*/config.json", "*.safetensors"])
def test_a_captive_portal_on_another_host_is_left_again(
    hub: HubServer, settings: Settings, commit: str, repository: Path, path: str
) -> None:
    """Its page must not become the address of the file."""
    portal = f"{hub.catalog.cdn}/portal"
    hub.faults.inject(Fault("status", status=302, path=path, headers={"Location": portal}))
    hub.faults.inject(Fault("portal", path="/portal", times=None))
    assert stored_tensors(fetch(REQUEST, settings)) == first_layers(repository, 2)


@pytest.mark.parametrize("status", [403, 404, 451, 511])
def test_a_refusal_that_is_not_the_hubs_is_asked_again(
    hub: HubServer, settings: Settings, commit: str, repository: Path, status: int
) -> None:
    for path in ("/api/models/*", "*/config.json"):
        hub.faults.inject(Fault("status", status=status, path=path))
    assert stored_tensors(fetch(REQUEST, settings)) == first_layers(repository, 2)


@pytest.fixture
def impatient(settings: Settings) -> Settings:
    return replace(settings, network=NetworkLimits(timeout=1.0, deadline=8.0))


@pytest.mark.parametrize(
    ("fault", "file"), [("slow", "*.safetensors"), ("slow", "config.json"), ("hang", "*.safetensors")]
)
def test_a_drip_of_bytes_ends(hub: HubServer, impatient: Settings, commit: str, fault: FaultKind, file: str) -> None:
    hub.faults.inject(Fault(fault, amount=20, origin="cdn" if "safe" in file else "hub", file=file, times=None))
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"only \d+ bytes came in|longer than 8 s|[Tt]ime"):
        fetch(REQUEST, impatient)
    assert time.monotonic() - started < 120


@pytest.mark.parametrize("path", ["/api/models/*", "*.safetensors"])
def test_headers_that_drip_end(hub: HubServer, impatient: Settings, commit: str, path: str) -> None:
    hub.faults.inject(Fault("drip_headers", amount=10, path=path, times=None))
    started = time.monotonic()
    with pytest.raises(InfrastructureError):
        fetch(REQUEST, impatient)
    assert time.monotonic() - started < 120


def test_one_drip_is_asked_again(hub: HubServer, impatient: Settings, commit: str, repository: Path) -> None:
    hub.faults.inject(Fault("drip_headers", amount=10, path="/api/models/*"))
    hub.faults.inject(Fault("slow", amount=20, file="config.json"))
    patient = replace(impatient, network=NetworkLimits(timeout=1.0))
    assert stored_tensors(fetch(REQUEST, patient)) == first_layers(repository, 2)


def test_a_deadline_keeps_what_arrived(
    hub: HubServer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_begun() -> bool:
        return any(has_complete_pieces(path) for path in settings.cache.glob("partial/*"))

    tensors = {name: tuple(16 * n for n in shape) for name, shape in model_shapes(2).items()}
    config = CONFIG | {"num_hidden_layers": 2}
    large = make_repository(tmp_path / "large", tensors=tensors, shards=1, config=config)
    hub.add(MODEL, large)
    hub.faults.inject(Fault("slow", amount=10_000, origin="cdn", skip=2, times=None))
    short = replace(settings, network=NetworkLimits(deadline=7200.0, streams=1))
    with monkeypatch.context() as patched:  # the deadline comes once a piece is there, however long that takes
        patched.setattr(connection, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + (is_begun() * 7200)))
        with pytest.raises(InfrastructureError, match=r"took longer than 7200 s; run it again .* HUB_TESTS_DEADLINE"):
            fetch(REQUEST, short)
    hub.faults.clear()
    hub.log.clear()
    assert stored_tensors(fetch(REQUEST, settings)) == upstream_tensors(large)
    again = sum(request.sent for request in hub.requests("cdn")) - HEADER_PROBE
    assert again <= large.joinpath("model.safetensors").stat().st_size - MIN_PIECE, "nothing was gone on from"


def test_xet_backed_files(hub: HubServer, settings: Settings, commit: str, repository: Path) -> None:
    """The headers of Xet change nothing: the signed URL of the same answer serves plain ranges."""
    hub.catalog.xet = True
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == first_layers(repository, 2)
    assert {request.origin for request in hub.log} == {"hub", "cdn"}
    assert not [request for request in hub.log if "xet" in request.path or "reconstructions" in request.path]


@pytest.mark.parametrize("digests", [True, False])
def test_requests_to_the_hub(hub: HubServer, settings: Settings, tmp_path: Path, digests: bool) -> None:
    """One for each touched shard, with or without digests in the list; the rest are list, config, index, companions."""
    hub.catalog.lists_digests = digests
    tensors = {f"model.layers.{n}.{m}.weight": (256, 256) for n in range(5) for m in "abcdefgh"}
    hub.add(MODEL, make_repository(tmp_path / "large", tensors=tensors))
    checkpoint = fetch(REQUEST, settings)
    shards = {request.file for request in hub.requests("cdn")}
    assert checkpoint.requests == len(hub.requests("hub")) == len(shards) + 6


def test_many_small_tensors_of_two_dtypes_are_few_requests(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    """FP8 experts: each weight with its scale beside it."""
    shapes = {f"model.layers.{n}.mlp.experts.{e}.w.weight": (64, 64) for n in range(2) for e in range(300)}
    repository = make_repository(tmp_path / "fp8", tensors=shapes, shards=2, config=CONFIG | {"num_hidden_layers": 2})
    for shard in repository.glob("*.safetensors"):
        add_scales(shard)
    index = json.loads((repository / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {f"{name}_scale_inv": shard for name, shard in index["weight_map"].items()}
    write_json(repository / "model.safetensors.index.json", index)
    hub.add(MODEL, repository)
    checkpoint = fetch(REQUEST, settings)
    assert stored_tensors(checkpoint) == upstream_tensors(repository)
    assert len(hub.requests("cdn")) <= 30, "1200 tensors"


def add_scales(shard: Path) -> None:
    """Rewrite a shard with a float32 scale after each weight."""
    made, at = [], 0
    for name in read_tensors([shard]):
        made += [TensorInfo(name, "U8", (64, 128), at, at + 8192)]
        made += [TensorInfo(f"{name}_scale_inv", "F32", (1,), at + 8192, at + 8196)]
        at += 8196
    shard.write_bytes(write_header(made, {"format": "pt"}) + random.Random(1).randbytes(at))


def test_connections_are_kept(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    tensors = {f"model.layers.{n}.{m}.weight": (1024, 1024) for n in range(2) for m in "abcdefgh"}
    config = CONFIG | {"num_hidden_layers": 2}
    hub.add(MODEL, make_repository(tmp_path / "large", tensors=tensors, shards=1, config=config))
    hub.link.latency = 0.03
    fetch(REQUEST, replace(settings, network=NetworkLimits(streams=4)))
    assert len(hub.requests("cdn")) > 8
    assert hub.connections <= 2 * 4, "new connections for each request"
