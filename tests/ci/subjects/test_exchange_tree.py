"""A tree that a worker wrote is taken file by file: no link, no special file, no depth and no number gets through."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ci.errors import HubTestsError
from ci.subjects import exchange_tree
from ci.subjects.exchange_tree import MAX_DEPTH, copy_tree, fits_tree_copy, move_tree
from ci.subjects.failure import SubjectProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of two levels."""
    (tmp_path / "out" / "step-1" / "gradients").mkdir(parents=True)
    (tmp_path / "out" / "step-1" / "gradients" / "model.safetensors").write_bytes(b"abc")
    (tmp_path / "out" / "notes").write_bytes(b"x")
    return tmp_path / "out"


@pytest.mark.parametrize("take", [copy_tree, move_tree])
def test_plain_files_at_any_level_are_taken(take: Callable[[Path, Path], None], tree: Path, tmp_path: Path) -> None:
    take(tree, tmp_path / "taken")
    assert (tmp_path / "taken" / "step-1" / "gradients" / "model.safetensors").read_bytes() == b"abc"
    assert (tmp_path / "taken" / "notes").read_bytes() == b"x"


def link_file(tree: Path) -> None:
    (tree / "step-1" / "link").symlink_to("/etc/passwd")


def link_directory(tree: Path) -> None:
    (tree / "step-2").symlink_to("/etc")


def link_twice(tree: Path) -> None:
    os.link(tree / "notes", tree / "step-1" / "same")


def make_pipe(tree: Path) -> None:
    os.mkfifo(tree / "step-1" / "pipe")


def nest(tree: Path) -> None:
    (tree / "/".join("abcdefgh"[: MAX_DEPTH + 2])).mkdir(parents=True)


@pytest.mark.parametrize("damage", [link_file, link_directory, link_twice, make_pipe, nest])
@pytest.mark.parametrize("take", [copy_tree, move_tree])
def test_nothing_else_is_taken(
    take: Callable[[Path, Path], None], damage: Callable[[Path], None], tree: Path, tmp_path: Path
) -> None:
    damage(tree)
    with pytest.raises(SubjectProtocolError):
        take(tree, tmp_path / "taken")


def test_too_many_files_and_too_many_bytes_are_noticed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fits_tree_copy(tree)
    monkeypatch.setattr(exchange_tree, "MAX_COPIED_BYTES", 3)
    assert not fits_tree_copy(tree)
    monkeypatch.setattr(exchange_tree, "MAX_FILES", 1)
    monkeypatch.setattr(exchange_tree._Budget.__init__, "__defaults__", (1,))
    with pytest.raises(SubjectProtocolError, match="more than 1 files"):
        copy_tree(tree, tmp_path / "taken")


def test_a_target_that_cannot_be_written_is_nobodys_fault_but_ours(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HubTestsError, match="cannot be written"):
        copy_tree(tree, tmp_path / "file" / "taken")
