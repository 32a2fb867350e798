"""A slot's own file system, made anew for each job: fresh home, work directory and tmp, of a fixed size, and then gone.

An image file of full size is reserved first, so that a job can never fill the host's disk, nor find its own too small.
systemd mounts it; the job, as its own user, furnishes it. Nothing here needs the right to mount.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from hub_runner.examine import is_mounted

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout

COMMAND_TIMEOUT = 240.0
LOG_FILES, LOG_BYTES = 50, 20 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def make(config: Config, slot: Slot, layout: Layout) -> None:
    """Reserve the image and make a file system in it that belongs to the slot's user. Raises InfrastructureError."""
    image = layout.image(slot.index)
    if is_mounted(layout.disk(slot.index)):
        raise InfrastructureError(f"{image} is in use")
    image.unlink(missing_ok=True)
    try:
        _reserve(image, config.limits.disk_gib << 30)
        options = f"root_owner={slot.uid}:{slot.uid},lazy_itable_init=1,nodiscard"
        # No journal: what is here need not survive a crash. No reserve for root: all of it is the job's.
        _command("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", options, str(image))
    except InfrastructureError:
        image.unlink(missing_ok=True)
        raise


def _reserve(image: Path, size: int) -> None:
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as failure:
        raise InfrastructureError(f"{image}: {size >> 30} GiB could not be reserved: {failure.strerror}") from None
    finally:
        os.close(descriptor)


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
    try:
        regular = stat.S_ISREG(os.fstat(source).st_mode)
        data = os.read(source, room) if regular and room > 0 else b""
    finally:
        os.close(source)
    if not data:
        return 0
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
