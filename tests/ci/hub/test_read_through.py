"""A fleet without a shared directory: one machine fetches, others read through a remote store. Also after kills."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.fetch import fetch
from ci.hub.manifest import MANIFEST
from ci.hub.store import Store
from tests.ci.hub.samples import MODEL, REQUEST, first_layers, stored_tensors

if TYPE_CHECKING:
    from ci.settings import Settings
    from tests.standin.server import HubServer

KILLED = """
import os, sys
from ci.__main__ import main
where, count, *arguments = sys.argv[1:]
import ci.hub.read_through, ci.hub.remote_store, ci.hub.repair, ci.hub.store, ci.hub.store_paths, ci.hub.prune
module, kind, name = where.split(":")
owner = sys.modules[module] if not kind else getattr(sys.modules[module], kind)
original, calls = getattr(owner, name), []


def killed(*args, **keywords):
    calls.append(1)
    if len(calls) == int(count):
        os.kill(os.getpid(), 9)
    return original(*args, **keywords)


setattr(owner, name, killed)
sys.exit(main(arguments))
"""


def run(
    settings: Settings, *arguments: str, kill: tuple[str, int] = ("ci.hub.store_paths:StorePaths:discard", 0)
) -> int:
    """Run `hub-tests` in a process of its own, which kills itself before the n-th call of a function."""
    where, count = kill
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(count), *arguments, "--cache", str(settings.cache)],
        env={**os.environ, "HF_ENDPOINT": settings.endpoint, "HUB_TESTS_STORE_URL": settings.store_url or ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


@pytest.fixture
def writer(settings: Settings, tmp_path: Path, commit: str) -> Settings:
    assert commit
    return replace(settings, cache=tmp_path / "a", store_url=f"file://{tmp_path / 'remote'}", uploads=True)


@pytest.fixture
def reader(writer: Settings, tmp_path: Path) -> Settings:
    return replace(writer, cache=tmp_path / "b", uploads=False, offline=True)


def states(settings: Settings) -> list[str]:
    return [entry.state for entry in Store(settings.cache).verify()]


def test_one_fetches_and_another_reads(writer: Settings, reader: Settings, commit: str, repository: Path) -> None:
    first = fetch(replace(REQUEST, revision=commit), writer)
    second = fetch(replace(REQUEST, revision=commit), reader)
    assert (first.cache, second.cache, second.requests, second.bytes_fetched) == ("miss", "hit", 0, 0)
    assert first.manifest_sha256 == second.manifest_sha256
    assert stored_tensors(second) == first_layers(repository, 2)
    assert states(reader) == ["complete"]


def test_what_the_local_store_has_is_written_to_the_remote_one(writer: Settings, reader: Settings, commit: str) -> None:
    request = replace(REQUEST, revision=commit)
    fetch(request, replace(writer, store_url=None))
    with pytest.raises(InfrastructureError, match="HF_HUB_OFFLINE is set"):
        fetch(request, reader)
    assert fetch(request, writer).cache == "hit"
    assert fetch(request, reader).cache == "hit"


def test_a_reader_writes_nothing_to_the_remote_store(writer: Settings, commit: str, tmp_path: Path) -> None:
    fetch(replace(REQUEST, revision=commit), replace(writer, uploads=False))
    assert not (tmp_path / "remote").exists()


def test_a_damaged_remote_copy_is_fetched_and_written_anew(
    writer: Settings, reader: Settings, commit: str, tmp_path: Path
) -> None:
    request = replace(REQUEST, revision=commit)
    fetch(request, writer)
    weights = next((tmp_path / "remote").rglob("*.safetensors"))
    weights.write_bytes(b"\0" * weights.stat().st_size)
    with pytest.raises(InfrastructureError, match="HF_HUB_OFFLINE is set"):
        fetch(request, reader)
    assert fetch(request, replace(writer, cache=tmp_path / "c")).cache == "miss"
    assert fetch(request, reader).cache == "hit"
    assert states(reader) == ["complete"]


def test_a_remote_store_that_fails_is_infrastructure(writer: Settings, tmp_path: Path, commit: str) -> None:
    (tmp_path / "remote").write_text("not a directory")
    with pytest.raises(InfrastructureError, match=r"cannot be (read|written)"):
        fetch(replace(REQUEST, revision=commit), writer)


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_upload_that_is_killed_is_no_hit_and_is_finished(
    writer: Settings, reader: Settings, commit: str, count: int
) -> None:
    arguments = ("fetch", MODEL, "--revision", commit)
    assert run(writer, *arguments, kill=("ci.hub.remote_store:RemoteStore:_put", count)) == -9
    with pytest.raises(InfrastructureError, match="HF_HUB_OFFLINE is set"):
        fetch(replace(REQUEST, revision=commit), reader)
    assert run(writer, *arguments) == 0
    assert fetch(replace(REQUEST, revision=commit), reader).cache == "hit"
    assert states(reader) == ["complete"]


@pytest.mark.long
@pytest.mark.parametrize(
    "kill",
    [
        ("ci.hub.remote_store:RemoteStore:_download_file", 1),
        ("ci.hub.remote_store:RemoteStore:_download_file", 3),
        ("ci.hub.remote_store:RemoteStore:_iter_pieces", 2),
        ("ci.hub.store:Store:finish", 1),
        ("ci.hub.store::_sync_directory", 2),
        ("ci.hub.store:Store:mark_in_use", 1),
    ],
    ids=lambda kill: f"{kill[0].rpartition(':')[2]} {kill[1]}",
)
def test_a_copy_that_is_killed_is_finished_at_once_by_the_next(
    writer: Settings, reader: Settings, commit: str, kill: tuple[str, int], hub: HubServer
) -> None:
    fetch(replace(REQUEST, revision=commit), writer)
    hub.log.clear()
    arguments = ("fetch", MODEL, "--revision", commit)
    assert run(reader, *arguments, kill=kill) == -9
    assert fetch(replace(REQUEST, revision=commit), reader).cache == "hit"
    assert states(reader) == ["complete"]
    assert [entry.state for entry in Store(reader.cache).list_entries()] == ["complete"]
    assert len(hub.log) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "kill",
    [
        ("ci.hub.store_paths:StorePaths:set_aside", 1),
        ("ci.hub.repair::fetch", 1),
        ("ci.hub.store:Store:finish", 1),
        ("ci.hub.repair::_mark_repaired", 1),
    ],
    ids=lambda kill: kill[0].rpartition(":")[2],
)
def test_a_repair_that_is_killed_is_finished_by_the_next(
    writer: Settings, commit: str, kill: tuple[str, int], repository: Path
) -> None:
    local = replace(writer, store_url=None)
    path = Path(fetch(replace(REQUEST, revision=commit), local).path)
    (path / "planted.bin").touch()
    assert run(local, "cache", "repair", kill=kill) == -9
    assert run(local, "cache", "repair") == 0
    assert states(local) == ["complete"]
    assert not (path / "planted.bin").exists()
    assert stored_tensors(fetch(replace(REQUEST, revision=commit), local)) == first_layers(repository, 2)


@pytest.mark.long
@pytest.mark.parametrize(
    "kill",
    [
        ("ci.hub.store_paths:StorePaths:discard", 2),
        ("ci.hub.store_paths:shutil:rmtree", 1),
        ("ci.hub.prune::_remove_left_overs", 1),
    ],
    ids=lambda kill: kill[0].rpartition(":")[2],
)
def test_a_prune_that_is_killed_is_finished_by_the_next(settings: Settings, commit: str, kill: tuple[str, int]) -> None:
    from ci.hub.lease import release_all

    path = Path(fetch(replace(REQUEST, revision=commit), settings).path)
    for layers in (3, 4):
        other = Path(str(path).replace("-L2", f"-L{layers}"))
        shutil.copytree(path, other)
        manifest = json.loads((other / MANIFEST).read_text())
        (other / MANIFEST).write_text(json.dumps({**manifest, "layers": layers}))
    release_all()
    assert run(settings, "cache", "prune", "--max-size", "0", kill=kill) == -9
    assert all(state == "complete" for state in states(settings)), "half of a checkpoint is in its place"
    assert run(settings, "cache", "prune", "--max-size", "0") == 0
    assert Store(settings.cache).list_entries() == ()
    assert [path.name for path in (settings.cache / "trash").iterdir()] == []
    assert [path.name for path in (settings.cache / "leases").iterdir()] == []


def test_a_hit_shows_that_the_remote_copy_is_in_use(
    writer: Settings, reader: Settings, commit: str, tmp_path: Path
) -> None:
    request = replace(REQUEST, revision=commit)
    fetch(request, writer)
    (manifest,) = (tmp_path / "remote").rglob(MANIFEST)
    content = manifest.read_bytes()
    for settings, renews in ((writer, True), (replace(writer, cache=tmp_path / "c"), True), (reader, False)):
        os.utime(manifest, (1000, 1000))
        assert fetch(request, settings).cache == "hit"
        assert (manifest.stat().st_mtime > 1000) == renews
        assert manifest.read_bytes() == content
