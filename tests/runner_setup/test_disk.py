"""A slot's file system, and the logs that are saved out of a directory that a job could write."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from hub_runner import disk
from hub_runner.disk import make_disk, save_logs

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout

MKFS = shutil.which("mkfs.ext4", path="/usr/bin:/usr/sbin:/sbin")
needs_mkfs = pytest.mark.skipif(MKFS is None, reason="apt-get install e2fsprogs")


@pytest.fixture
def small(config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Config:
    layout.image(0).parent.mkdir(parents=True)
    reserve = disk._reserve_file
    monkeypatch.setattr(disk, "_reserve_file", lambda image, size: reserve(image, size >> 6))
    return replace(config, limits=replace(config.limits, disk_gib=1))


@needs_mkfs
def test_the_image_is_reserved_whole_and_belongs_to_the_slots_user(small: Config, layout: Layout) -> None:
    image = layout.image(0)
    image.write_text("of the last job")
    make_disk(small, small.get_slot(0), layout)
    assert image.stat().st_size == 16 << 20
    assert image.stat().st_blocks * 512 >= 16 << 20
    assert image.stat().st_mode & 0o777 == 0o600
    assert b"of the last job" not in image.read_bytes()


@needs_mkfs
def test_a_disk_in_use_is_not_made_anew(small: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "is_mounted", lambda place: place == layout.disk(0))
    with pytest.raises(InfrastructureError, match="is in use"):
        make_disk(small, small.get_slot(0), layout)


def test_no_room_leaves_nothing(small: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InfrastructureError, match="No space left"):
        make_disk(small, small.get_slot(0), layout)
    assert not layout.image(0).exists()


@pytest.fixture
def diag(tmp_path: Path) -> Path:
    place = tmp_path / "disk/runner/_diag"
    place.mkdir(parents=True)
    return place


def saved(diag: Path, tmp_path: Path) -> dict[str, bytes]:
    target = tmp_path / "logs"
    save_logs(diag.parents[1], target)
    return {path.name.partition("-")[2]: path.read_bytes() for path in sorted(target.iterdir())}


def test_the_runners_logs_are_kept(diag: Path, tmp_path: Path) -> None:
    (diag / "Runner_1.log").write_text("hello")
    assert saved(diag, tmp_path) == {"Runner_1.log": b"hello"}


def test_no_link_pipe_or_directory_is_followed(diag: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    (diag / "link.log").symlink_to(secret)
    (diag / "directory.log").mkdir()
    os.mkfifo(diag / "pipe.log")
    assert saved(diag, tmp_path) == {}


@pytest.mark.parametrize("part", ["runner", "runner/_diag"])
def test_no_directory_that_became_a_link_is_followed(diag: Path, tmp_path: Path, part: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "_diag").mkdir(parents=True)
    (elsewhere / "secret.log").write_text("key")
    (elsewhere / "_diag/secret.log").write_text("key")
    link = tmp_path / "disk" / part
    shutil.rmtree(link)
    link.symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        save_logs(tmp_path / "disk", tmp_path / "logs")


def test_names_and_amounts_are_bounded(diag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOG_BYTES", 100)
    monkeypatch.setattr(disk, "LOG_FILES", 3)
    for name, size in (("a\n$(x).log", 60), ("b.log", 60), ("c.log", 60), ("d.log", 1)):
        (diag / name).write_bytes(b"x" * size)
    kept = saved(diag, tmp_path)
    assert list(kept) == ["a___x_.log", "b.log"]
    assert sum(map(len, kept.values())) == 100
