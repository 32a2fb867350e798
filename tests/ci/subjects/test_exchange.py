"""Whatever a subject leaves in the directory that it writes to, only plain files of a fitting size are taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ci.subjects import exchange
from ci.subjects.exchange import copy_directory, move_directory
from ci.subjects.failure import SubjectProtocolError

Take = Callable[[Path, Path], None]
pytestmark = pytest.mark.parametrize("take", [copy_directory, move_directory])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.safetensors").write_bytes(b"a" * 100_000)
    (source / "trace.json").write_bytes(b"{}")
    return source


def test_plain_files_arrive(take: Take, source: Path, tmp_path: Path) -> None:
    take(source, tmp_path / "private" / "trace")
    taken = {path.name: path.read_bytes() for path in (tmp_path / "private" / "trace").iterdir()}
    assert taken == {"a.safetensors": b"a" * 100_000, "trace.json": b"{}"}


PLANTED: dict[str, Callable[[Path], object]] = {
    "symbolic link": lambda path: path.symlink_to("/etc/passwd"),
    "hard link": lambda path: os.link(path.parent / "trace.json", path),
    "FIFO": lambda path: os.mkfifo(path),
    "directory": lambda path: path.mkdir(),
    "odd name": lambda path: path.with_name("a\x1b[31m").write_bytes(b""),
    "long name": lambda path: path.with_name("a" * 250).write_bytes(b""),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_anything_else_is_refused(take: Take, kind: str, source: Path, tmp_path: Path) -> None:
    PLANTED[kind](source / "planted")
    with pytest.raises(SubjectProtocolError) as refused:
        take(source, tmp_path / "taken")
    assert "\x1b" not in str(refused.value)


def test_too_many_files_are_refused(take: Take, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_FILES", 1)
    with pytest.raises(SubjectProtocolError, match="more than 1 files"):
        take(source, tmp_path / "taken")


def test_a_directory_that_is_a_link_is_refused(take: Take, source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(SubjectProtocolError):
        take(tmp_path / "link", tmp_path / "taken")


def test_a_missing_directory_is_refused(take: Take, tmp_path: Path) -> None:
    with pytest.raises(SubjectProtocolError, match="No such file"):
        take(tmp_path / "none", tmp_path / "taken")


def test_a_sparse_file_larger_than_the_disk_is_refused(take: Take, source: Path, tmp_path: Path) -> None:
    if take is move_directory:
        return  # nothing is copied there
    with (source / "huge").open("wb") as huge:
        huge.truncate(2**43)
    with pytest.raises(SubjectProtocolError, match="do not fit on the disk"):
        take(source, tmp_path / "taken")
