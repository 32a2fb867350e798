"""A slot's own file system, made anew for each job: fresh home, work directory and tmp, of a fixed size, and then gone.

An image file of full size is reserved first, so that a job can never fill the host's disk, nor find its own too small.
Runs as root, from the slot's unit, before any code of the job exists and after all of it is dead.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from hub_runner.examine import is_mounted

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout

COMMAND_TIMEOUT = 240.0
UMOUNT_TRIES = 20
LOG_FILES, LOG_BYTES = 50, 20 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def prepare(config: Config, slot: Slot, layout: Layout) -> None:
    """Make, mount and furnish the slot's disk. Raises InfrastructureError; then nothing is mounted."""
    wipe(slot, layout)
    current = layout.runners / "current"
    if not current.is_dir():
        raise InfrastructureError(f"{current}: no runner is installed: hub-runner update")
    image, disk = layout.image(slot.index), layout.disk(slot.index)
    disk.mkdir(parents=True, exist_ok=True)
    try:
        _make(image, config.limits.disk_gib << 30, slot)
        _command("mount", "-o", "loop,nosuid,nodev,noatime", str(image), str(disk))
        _furnish(disk, current.resolve(), slot)
    except InfrastructureError:
        wipe(slot, layout)
        raise


def _make(image: Path, size: int, slot: Slot) -> None:
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as failure:
        raise InfrastructureError(f"{image}: {size >> 30} GiB could not be reserved: {failure.strerror}") from None
    finally:
        os.close(descriptor)
    options = f"root_owner={slot.uid}:{slot.uid},lazy_itable_init=1,nodiscard"
    # No journal: what is here need not survive a crash. No reserve for root: all of it is the job's.
    _command("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", options, str(image))


def _furnish(disk: Path, runner: Path, slot: Slot) -> None:
    """home, tmp and a copy of the runner, of which only the top directory is the job's: the runner writes there."""
    disk.chmod(0o700)
    for name in ("home", "tmp"):
        (disk / name).mkdir(mode=0o700)
        os.chown(disk / name, slot.uid, slot.uid)
    _command("cp", "-a", "--no-preserve=ownership", str(runner), str(disk / "runner"))
    os.chown(disk / "runner", slot.uid, slot.uid)
    os.chown(disk, slot.uid, slot.uid)
    (disk / "runner").chmod(0o700)


def wipe(slot: Slot, layout: Layout, *, keep_logs: bool = False) -> None:
    """Unmount and delete the slot's disk; its runner's logs are copied out first. Raises InfrastructureError."""
    image, disk = layout.image(slot.index), layout.disk(slot.index)
    if is_mounted(disk):
        if keep_logs:
            with suppress(OSError):
                save_logs(disk, layout.logs / f"slot-{slot.index}")
        _unmount(disk)
    image.unlink(missing_ok=True)
    layout.jit(slot.index).unlink(missing_ok=True)


def _unmount(disk: Path) -> None:
    for attempt in range(UMOUNT_TRIES):
        try:
            _command("umount", str(disk))
        except InfrastructureError:
            if attempt == UMOUNT_TRIES - 1:
                raise
            time.sleep(0.5)
        else:
            return


def save_logs(disk: Path, target: Path) -> int:
    """Copy the runner's own logs out of a directory that a job could write: no link is followed, all is bounded.

    An ephemeral runner's logs exist nowhere else. Returns how many files were kept.
    """
    target.mkdir(parents=True, exist_ok=True, mode=0o750)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept, room = 0, LOG_BYTES
    with ExitStack() as open_directories:
        place = os.open(disk, DIRECTORY)
        open_directories.callback(os.close, place)
        for name in ("runner", "_diag"):
            place = os.open(name, DIRECTORY, dir_fd=place)
            open_directories.callback(os.close, place)
        for name in sorted(os.listdir(place))[:LOG_FILES]:  # noqa: PTH208  a descriptor, not a path
            copied = _copy_log(place, name, target / f"{stamp}-{harmless(name)}", room)
            kept, room = kept + bool(copied), room - copied
    return kept


def harmless(name: str) -> str:
    """A job chose this name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]


def _copy_log(directory: int, name: str, target: Path, room: int) -> int:
    """Copy a regular file of at most `room` bytes' worth; returns how many were copied."""
    try:
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return 0
    with os.fdopen(source, "rb") as file:
        if room <= 0 or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return 0
        data = file.read(room)
    target.write_bytes(data)
    target.chmod(0o640)
    return len(data)


def _command(*command: str) -> None:
    tool = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
    try:
        subprocess.run([tool, *command[1:]], check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)  # noqa: S603
    except subprocess.CalledProcessError as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure.stderr.strip()[:300]}") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure}") from None
