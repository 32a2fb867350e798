"""Name a process so that another one, perhaps in another container or on another machine, can tell whether it lives."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def describe_namespace() -> str:
    """Return a name for the processes visible from here: host, boot and PID namespace."""
    parts = [socket.gethostname(), *([read_boot_id()] if read_boot_id() else [])]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


@cache
def read_boot_id() -> str:
    """Return a name for this boot of this machine's kernel, "" if unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def process_exists(pid: int) -> bool:
    """Return whether a process with this number is visible from here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def read_start_time(pid: int) -> int:
    """Return a process's start in clock ticks since boot (man proc_pid_stat); 0 if unknown.

    It tells apart two processes with the same number.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
