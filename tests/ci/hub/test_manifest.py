"""`hub-tests.json`: written, read back, and compared with a directory."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.manifest import (
    MANIFEST,
    FileEntry,
    IncompatibleManifestError,
    encode_manifest,
    read_manifest,
)
from tests.ci.hub.checkpoints import KEY, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "model.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, size=100)
    return tmp_path


def test_reads_back_what_was_written(directory: Path) -> None:
    manifest, digest = read_manifest(directory)
    content = (directory / MANIFEST).read_bytes()
    assert (manifest.model_id, manifest.commit, manifest.layers) == (KEY.model_id, KEY.commit, KEY.layers)
    assert manifest.files == {WEIGHTS: FileEntry(100, hashlib.sha256(b"x" * 100).hexdigest())}
    assert encode_manifest(manifest) == content
    assert digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read: No such file"),
        ("{", "hub-tests.json"),
        ("{}", "hub-tests.json"),
        ('{"schema": 1, "surprise": 2}', "hub-tests.json"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InfrastructureError, match=problem):
        read_manifest(tmp_path)


def test_another_schema_is_refused(directory: Path) -> None:
    path = directory / MANIFEST
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 7'))
    with pytest.raises(InfrastructureError, match="schema 7, this version of hub-tests reads 1"):
        read_manifest(directory)


def test_a_newer_schema_is_told_apart_whatever_else_it_has(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"schema": 2, "everything": "else"}')
    with pytest.raises(IncompatibleManifestError, match="written by a newer hub-tests"):
        read_manifest(tmp_path)


def test_unknown_keys_are_ignored(directory: Path) -> None:
    path = directory / MANIFEST
    path.write_text(path.read_text().replace('"schema": 1', '"surprise": [1], "schema": 1'))
    assert read_manifest(directory)[0].model_id == KEY.model_id


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_a_manifest_is_a_file(directory: Path, kind: str) -> None:
    path = directory / MANIFEST
    path.rename(directory.parent / "elsewhere")
    if kind == "link":
        path.symlink_to(directory.parent / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(InfrastructureError, match="cannot be read"):
        read_manifest(directory)


def test_a_manifest_without_end_is_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.hub.manifest.MAX_MANIFEST", 100)
    with pytest.raises(InfrastructureError, match="more than 100 bytes"):
        read_manifest(directory)
