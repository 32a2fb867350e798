"""A directory is a checkpoint when it is exactly its manifest."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.hub.checkpoint_files import find_content_problems, find_manifest_problems, find_size_problems, is_safe_name
from ci.hub.manifest import MANIFEST, FileEntry, Manifest, read_manifest
from tests.ci.hub.checkpoints import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "model.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    write_checkpoint(path, size=100)
    return path


@pytest.fixture
def manifest(directory: Path) -> Manifest:
    return read_manifest(directory)[0]


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


def test_what_the_manifest_does_not_name_is_a_problem(
    directory: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = directory / "pytorch_model.bin"
    planted.touch()
    assert find_size_problems(directory, manifest) == ["pytorch_model.bin is a file that the manifest does not name"]
    planted.unlink()
    planted.symlink_to(directory / WEIGHTS)
    assert find_size_problems(directory, manifest) == ["pytorch_model.bin is a link that the manifest does not name"]
    planted.unlink()
    planted.mkdir()
    assert find_size_problems(directory, manifest) == [
        "pytorch_model.bin is a directory that the manifest does not name"
    ]
    planted.rmdir()
    os.mkfifo(planted)
    assert "special file" in find_content_problems(directory, manifest)[0]
    planted.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(directory)  # a socket's path is short
        listener.bind("s")
    assert "special file" in find_content_problems(directory, manifest)[0]


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_a_named_file_is_a_file(directory: Path, manifest: Manifest, kind: str) -> None:
    path = directory / WEIGHTS
    path.rename(directory.parent / "elsewhere")
    if kind == "link":
        path.symlink_to(directory.parent / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    (problem,) = find_content_problems(directory, manifest)
    assert problem.startswith(f"{WEIGHTS} is a {'special file' if kind == 'pipe' else kind} instead of a file")


def test_a_linked_directory_is_no_checkpoint(directory: Path, manifest: Manifest) -> None:
    (directory.parent / "link").symlink_to(directory)
    assert find_size_problems(directory.parent / "link", manifest) == ["the checkpoint's directory is a link"]


def test_named_files_below_directories(directory: Path, manifest: Manifest) -> None:
    nested = replace(manifest, files={**manifest.files, "a/b/code.py": FileEntry(0, EMPTY)})
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "a" / "b" / "code.py").touch()
    assert find_content_problems(directory, nested) == []
    (directory / "a" / "c").mkdir()
    assert find_size_problems(directory, nested) == ["a/c is a directory that the manifest does not name"]
    (directory / "a" / "c").rmdir()
    (directory / "a" / "b").rename(directory.parent / "b")
    (directory / "a" / "b").symlink_to(directory.parent / "b")
    assert find_size_problems(directory, nested) == [
        "a/b is a link that the manifest does not name",
        "a/b/code.py is missing",
    ]


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_manifest_without_weights_names_no_checkpoint(manifest: Manifest) -> None:
    assert find_manifest_problems(manifest) == []
    assert "the manifest names no weights" in find_manifest_problems(replace(manifest, tensors={}))
    assert find_manifest_problems(replace(manifest, files={})) == [
        f"the manifest has tensors in {WEIGHTS}, which it does not name"
    ]
    more = {**manifest.files, "other.safetensors": FileEntry(1, EMPTY)}
    assert find_manifest_problems(replace(manifest, files=more)) == [
        "the manifest names no tensor of other.safetensors"
    ]
    unhashed = {WEIGHTS: FileEntry(100, None)}
    assert find_manifest_problems(replace(manifest, files=unhashed)) == [f"the manifest has no sha256 of {WEIGHTS}"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/x", "a//b", "a/./b", "a/../../b", "a/", "a\\b", "a\nb", "\x1b[2J", "x" * 256, MANIFEST],
)
def test_unsafe_names(name: str, directory: Path, manifest: Manifest) -> None:
    assert not is_safe_name(name)
    hostile = replace(manifest, files={**manifest.files, name: FileEntry(0, EMPTY)})
    (problem,) = find_size_problems(directory, hostile)
    assert problem.startswith("the manifest names ")
    assert problem.isprintable()


def test_safe_names() -> None:
    assert all(map(is_safe_name, ["config.json", "a/b.py", "..x", "ä.json", "tokenizer.model.v3"]))
