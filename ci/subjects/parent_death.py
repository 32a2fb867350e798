"""A child process that ends with its parent, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
"""Loaded before a fork: the child calls it and nothing else."""


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends: prctl(2).

    It is called in the child, with the parent's process id; where the parent has died already, it ends at once.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before it could be said
