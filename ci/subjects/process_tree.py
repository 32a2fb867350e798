"""A program that is not trusted, with everything that it starts: ended together, and known to be gone.

Of a sandbox, the process that we start is bubblewrap outside of it. It can end before what runs inside, whose end the
kernel only begins then. What says that the inside is gone is the end of the namespace's first process: the kernel lets
that one end last, when no other process is left (pid_namespaces(7), zap_pid_ns_processes in kernel/pid_namespace.c).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ci.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_SECONDS = 30.0
"""How long bubblewrap may take until it names the first process inside."""
END_SECONDS = 30.0
"""How long killed processes may take to be gone: a driver can hold one back."""
MAX_INFO_BYTES = 4096

_starter = ThreadPoolExecutor(1, "start")
"""A thread that lives as long as this process. A sandbox dies with the thread that started it, not with the process:
the kernel's signal at the parent's death is about that thread (PR_SET_PDEATHSIG, prctl(2))."""


@dataclass
class ProcessTree:
    """A running program; `popen` is the process that we started, `_first` a pidfd of the first one in its sandbox."""

    popen: subprocess.Popen[bytes]
    _first: int | None = None

    def interrupt(self) -> None:
        """Kill everything without waiting for its end."""
        if self._first is not None:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
        if self.popen.returncode is None:  # else the number may be another process's by now
            with suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)

    def end(self, seconds: float = END_SECONDS) -> bool:
        """Kill everything, and return whether it is gone.

        Without a sandbox that is known of the process group only.
        """
        self.interrupt()
        deadline = time.monotonic() + seconds
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        gone = self.popen.returncode is not None and self._wait_for_first(deadline)
        if gone and self._first is not None:
            os.close(self._first)
            self._first = None
        return gone

    def _wait_for_first(self, deadline: float) -> bool:
        if self._first is None:
            return True
        poll = select.poll()
        poll.register(self._first, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def start_tree(
    make_command: Callable[[int | None], Sequence[str]],
    *,
    sandboxed: bool,
    environment: Mapping[str, str],
    output: IO[bytes],
    descriptors: Sequence[int] = (),
) -> ProcessTree:
    """Start a program as the leader of a new process group.

    `make_command` gets the descriptor to which a sandbox's bubblewrap writes what it started (`--info-fd`), None
    without a sandbox. Raises OSError where it cannot be started, InfrastructureError where its sandbox does not answer.
    """
    read, write = os.pipe()
    try:
        popen = _start_process(
            make_command(write if sandboxed else None),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=(*descriptors, *((write,) if sandboxed else ())),
            start_new_session=True,
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    with os.fdopen(read, "rb", buffering=0) as info:
        tree = ProcessTree(popen)
        if not sandboxed:
            return tree
        try:
            return ProcessTree(popen, _open_first(_read_info(info, START_SECONDS), popen.pid))
        except BaseException:
            tree.end()
            raise


def _start_process(command: Sequence[str], **settings: Any) -> subprocess.Popen[bytes]:
    """Start a process from a thread that outlives it, whichever thread asks."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, **settings)  # noqa: S603 (the command is the caller's)

    return start() if threading.current_thread() is threading.main_thread() else _starter.submit(start).result()


def _read_info(info: IO[bytes], seconds: float) -> int | None:
    """Read the number of the first process inside; None where bubblewrap ended before it started one."""
    poll, deadline, text = select.poll(), time.monotonic() + seconds, b""
    poll.register(info, select.POLLIN)
    while b"}" not in text and len(text) < MAX_INFO_BYTES:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise InfrastructureError(f"the sandbox did not start within {seconds:g} s: run `hub-tests doctor`")
        if not (piece := info.read(MAX_INFO_BYTES)):
            return None
        text += piece
    return int(json.loads(text[: text.index(b"}") + 1])["child-pid"])


def _open_first(pid: int | None, parent: int) -> int | None:
    """Open the first process inside; None where it is gone already. Its parent proves that it is that process."""
    if pid is None:
        return None
    try:
        first = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as problem:
        raise InfrastructureError(f"the sandbox cannot be watched (Linux 5.3 or newer): {problem.strerror}") from None
    with suppress(OSError):
        if f"\nPPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace"):
            return first
    os.close(first)
    raise InfrastructureError("the sandbox ended while it was started: run `hub-tests doctor`")
