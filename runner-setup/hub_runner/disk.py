"""The disk of a slot: a file system of a fixed size with home, work directory and tmp, made anew for each job.

The image file is reserved in full first: a job can never fill the host's disk, and never has less than its own size.
systemd mounts the image, and the job makes its directories as its own user. Nothing here needs the right to mount.
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
from hub_runner.slot_checks import is_mounted

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout

COMMAND_TIMEOUT = 240.0
LOG_FILES, LOG_BYTES = 50, 20 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def make_disk(config: Config, slot: Slot, layout: Layout) -> None:
    """Reserve the image and make a file system in it for the slot's user.

    Raises InfrastructureError when the disk is in use or cannot be made.
    """
    image = layout.image(slot.index)
    if is_mounted(layout.disk(slot.index)):
        raise InfrastructureError(f"{image} is in use: stop the slot's unit first")
    image.unlink(missing_ok=True)
    try:
        _reserve_file(image, config.limits.disk_gib << 30)
        options = f"root_owner={slot.uid}:{slot.uid},lazy_itable_init=1,nodiscard"
        # No journal: the files need not survive a crash. No blocks reserved for root: all of them are for the job.
        _run_command("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", options, str(image))
    except InfrastructureError:
        image.unlink(missing_ok=True)
        raise


def _reserve_file(image: Path, size: int) -> None:
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as failure:
        raise InfrastructureError(f"{image}: {size >> 30} GiB could not be reserved: {failure.strerror}") from None
    finally:
        os.close(descriptor)


def save_logs(disk: Path, target: Path) -> int:
    """Copy the runner's logs out of the job's disk; return how many files were kept.

    A job could write there, so no link is followed, and number and size of the files are limited. The logs of an
    ephemeral runner exist nowhere else.
    """
    target.mkdir(parents=True, exist_ok=True, mode=0o750)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept, room = 0, LOG_BYTES
    with ExitStack() as open_directories:
        directory = os.open(disk, DIRECTORY)
        open_directories.callback(os.close, directory)
        for name in ("runner", "_diag"):
            directory = os.open(name, DIRECTORY, dir_fd=directory)
            open_directories.callback(os.close, directory)
        for name in sorted(os.listdir(directory))[:LOG_FILES]:  # noqa: PTH208  a descriptor, not a path
            copied = _copy_log(directory, name, target / f"{stamp}-{sanitize_name(name)}", room)
            kept, room = kept + bool(copied), room - copied
    return kept


def sanitize_name(name: str) -> str:
    """Replace unusual characters in a file name that a job chose."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]


def _copy_log(directory: int, name: str, target: Path, room: int) -> int:
    """Copy at most `room` bytes of a regular file; return how many were copied."""
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


def _run_command(*command: str) -> None:
    tool = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
    try:
        subprocess.run([tool, *command[1:]], check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)  # noqa: S603
    except subprocess.CalledProcessError as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure.stderr.strip()[:300]}") from None
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"{' '.join(command)}: {failure}") from None
