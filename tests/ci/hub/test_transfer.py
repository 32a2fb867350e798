"""Ranges to disk: complete, hashed, resumable, and honest about what is there."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.download_plan import OutputFile, TensorSource, plan_output_files
from ci.hub.header import TensorInfo
from ci.hub.journal import JOURNAL, Journal, has_complete_pieces
from ci.hub.remote import HubClient
from ci.hub.transfer import Transfer
from tests.ci.hub.samples import MODEL, read_tensors
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer

PIECE_SIZE = 10_000
BIG = "big.bin"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.hub.transfer.PIECE_SIZE", PIECE_SIZE)
    monkeypatch.setattr("ci.hub.transfer.LARGEST_REQUEST", PIECE_SIZE)


@pytest.fixture
def content(repository: Path, hub: HubServer) -> bytes:
    """A file of 40 pieces, served."""
    made = os.urandom(40 * PIECE_SIZE)
    (repository / BIG).write_bytes(made)
    hub.add(MODEL, repository)
    return made


@pytest.fixture
def outputs() -> tuple[OutputFile, ...]:
    """Most of that file, as tensors of three pieces each, in two files."""
    size = 3 * PIECE_SIZE
    sources = [
        TensorSource(BIG, TensorInfo(f"t{n}", "U8", (size,), 0, size), n * size, (n + 1) * size)
        for n in range(13)
        if n != 5
    ]
    return plan_output_files(sources, max_file_size=7 * size)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


def start(settings: Settings, outputs: tuple[OutputFile, ...], target: Path) -> Transfer:
    hub = HubClient(settings)
    return Transfer(hub, hub.get_repository(MODEL, None), outputs, target)


def expected(content: bytes) -> dict[str, bytes]:
    return {f"t{n}": content[n * 3 * PIECE_SIZE : (n + 1) * 3 * PIECE_SIZE] for n in range(13) if n != 5}


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


def test_every_byte_in_its_place_and_hashed(
    settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    seen: list[tuple[int, int]] = []
    digests = start(settings, outputs, target).run(lambda done, total: seen.append((done, total)))
    assert read_tensors(target / output.name for output in outputs) == expected(content)
    for output in outputs:
        assert digests[output.name].file == hashlib.sha256((target / output.name).read_bytes()).hexdigest()
        for placed in output.tensors:
            name = placed.source.tensor.name
            assert digests[output.name].tensors[name] == hashlib.sha256(expected(content)[name]).hexdigest()
    total = 12 * 3 * PIECE_SIZE
    assert seen[-1] == (total, total)


def test_only_what_is_missing_is_fetched_again(
    hub: HubServer, settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    hub.faults.inject(Fault("cut", origin="cdn", skip=20, times=None))
    with pytest.raises(InfrastructureError, match=r"times in a row"):
        start(settings, outputs, target).run(ignore)
    assert has_complete_pieces(target)
    hub.faults.clear()
    hub.log.clear()
    seen: list[int] = []
    start(settings, outputs, target).run(lambda done, _: seen.append(done))
    moved = sum(request.sent for request in hub.requests("cdn"))
    assert moved <= 12 * 3 * PIECE_SIZE - 15 * PIECE_SIZE, "the parts that were there were fetched again"
    assert min(seen) >= 15 * PIECE_SIZE, "they do not count as done"
    assert read_tensors(target / output.name for output in outputs) == expected(content)


def test_interrupted_by_hand(
    hub: HubServer, settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    hub.faults.inject(Fault("slow", amount=100, origin="cdn", skip=8, times=None))
    started = time.monotonic()

    def interrupt(done: int, total: int) -> None:
        if done >= 8 * PIECE_SIZE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(settings, outputs, target).run(interrupt)
    assert time.monotonic() - started < 90, "slow streams were waited for"
    assert has_complete_pieces(target)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("hub-")]
    assert set(names) <= {"hub-watch"}, "what watches over headers ends by itself, everything else has ended"
    hub.faults.clear()
    start(settings, outputs, target).run(ignore)
    assert read_tensors(target / output.name for output in outputs) == expected(content)


def test_what_is_in_the_journal_is_on_the_disk(
    settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece is recorded after its file was synced, never before."""
    events: list[str] = []
    sync, add = os.fdatasync, Journal.record

    def noted_sync(handle: int) -> None:
        sync(handle)
        events.append("sync")

    def noted_add(journal: Journal, numbers: Iterable[int]) -> None:
        events.append("note")
        add(journal, numbers)

    monkeypatch.setattr(os, "fdatasync", noted_sync)
    monkeypatch.setattr(Journal, "record", noted_add)
    start(settings, outputs, target).run(ignore)
    assert events[0] == "sync"
    assert "note" in events
    assert events.count("sync") >= events.count("note")


def test_a_full_disk_is_known_before_anything_is_fetched(
    hub: HubServer,
    settings: Settings,
    content: bytes,
    outputs: tuple[OutputFile, ...],
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InfrastructureError, match=r"the disk is full; free some space or .* HUB_TESTS_CACHE"):
        start(settings, outputs, target).run(ignore)
    assert hub.requests("cdn") == []
    assert not has_complete_pieces(target)


@pytest.mark.parametrize(("call", "good"), [("pwrite", 20), ("fdatasync", 0)])
def test_a_disk_that_fails_on_the_way_ends_it_soon(
    hub: HubServer,
    settings: Settings,
    content: bytes,
    outputs: tuple[OutputFile, ...],
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    good: int,
) -> None:
    real, calls = getattr(os, call), []

    def failing(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > good:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(os, call, failing)
    hub.faults.inject(Fault("slow", amount=100, origin="cdn", skip=25, times=None))
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match="Input/output error"):
        start(settings, outputs, target).run(ignore)
    assert time.monotonic() - started < 90, "what was still on its way was waited for"


def test_the_same_sizes_from_elsewhere_are_another_plan(
    settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    start(settings, outputs, target).run(ignore)
    first = outputs[0].tensors[0]
    elsewhere = replace(first.source, begin=39 * PIECE_SIZE - 3 * PIECE_SIZE, end=39 * PIECE_SIZE)
    moved = replace(outputs[0], tensors=(replace(first, source=elsewhere), *outputs[0].tensors[1:]))
    start(settings, (moved,), target).run(ignore)
    name = first.source.tensor.name
    assert read_tensors([target / moved.name])[name] == content[36 * PIECE_SIZE : 39 * PIECE_SIZE]


def test_another_plan_starts_over(
    settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    start(settings, outputs, target).run(ignore)
    (target / "left-over").mkdir()
    fewer = plan_output_files([placed.source for placed in outputs[0].tensors[1:]], max_file_size=10**9)
    assert start(settings, fewer, target).bytes_to_allocate == fewer[0].size
    assert [path.name for path in target.iterdir()] == [JOURNAL]


def test_a_file_that_disappeared_starts_over(
    settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    start(settings, outputs, target).run(ignore)
    (target / outputs[0].name).unlink()
    start(settings, outputs, target).run(ignore)
    assert read_tensors(target / output.name for output in outputs) == expected(content)


def test_a_torn_journal_loses_only_its_torn_lines(
    hub: HubServer, settings: Settings, content: bytes, outputs: tuple[OutputFile, ...], target: Path
) -> None:
    start(settings, outputs, target).run(ignore)
    lines = (target / JOURNAL).read_text().splitlines()
    noise = ['{"piece": 1', '{"piece": "1"}', '{"piece": 9999}', '{"piece": true}', '{"piece": -1}', "3", "\x00"]
    (target / JOURNAL).write_text("\n".join([*lines[:20], *noise]))
    hub.log.clear()
    start(settings, outputs, target).run(ignore)
    assert 0 < len(hub.requests("cdn")) < 36
    assert read_tensors(target / output.name for output in outputs) == expected(content)
