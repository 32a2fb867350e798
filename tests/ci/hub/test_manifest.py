"""`hub-tests.json`: written, read back, and compared with a directory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.hub.manifest import (
    MANIFEST,
    FileEntry,
    encode_manifest,
    find_content_problems,
    find_size_problems,
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


def test_problems_by_size_and_by_content(directory: Path) -> None:
    manifest, _ = read_manifest(directory)
    assert find_size_problems(directory, manifest) == find_content_problems(directory, manifest) == []
    (directory / WEIGHTS).write_bytes(b"y" * 100)
    assert find_size_problems(directory, manifest) == []
    assert find_content_problems(directory, manifest) == [f"{WEIGHTS} has other content than when it was fetched"]
    (directory / WEIGHTS).write_bytes(b"y" * 99)
    assert find_content_problems(directory, manifest) == [f"{WEIGHTS} has 99 bytes instead of 100"]
    (directory / WEIGHTS).unlink()
    assert find_content_problems(directory, manifest) == [f"{WEIGHTS} is missing"]
