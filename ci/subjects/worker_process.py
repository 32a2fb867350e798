"""One worker process: started, asked with a limit of time and size, and ended with everything that it started."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ci.errors import InfrastructureError, RequestError
from ci.subjects.process_tree import ProcessTree, start_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.exchange import Exchange
    from ci.subjects.worker_launch import WorkerLaunch

MAX_RESPONSE_BYTES = 8 * 2**20
LOG_TAIL_BYTES = 64 * 2**10
POLL_SECONDS = 0.2
WATCH_SECONDS = 2.0
"""How often the log is looked at while a response is awaited."""
MAX_LOG_BYTES = 2**28
SIGNAL_BASE = 128
"""bubblewrap exits with this and the number of the signal that ended the program inside, as a shell does."""
EXIT_SECONDS = 2.0
"""How long a process that closed its pipe may take to exit."""


class WorkerTimeout(Exception):  # noqa: N818 (the caller makes an error of ours from it)
    """No response within the limit of time."""


class WorkerDied(Exception):  # noqa: N818
    """The process ended without a response; the message says how."""


class InvalidResponse(Exception):  # noqa: N818
    """The response is too large, there are several, or the worker uses up a resource; the message says which."""


@dataclass
class WorkerProcess:
    """A running worker, its two pipes and its log."""

    log: Path
    _tree: ProcessTree
    _requests: int
    _responses: int
    _log_start: int
    _watched_at: float = 0.0

    @classmethod
    def start(cls, launch: WorkerLaunch, home: Path, exchange: Exchange) -> Self:
        """Start the worker's program in the subject's interpreter, as the leader of a new process group."""
        read_request, write_request = os.pipe()
        read_response, write_response = os.pipe()
        log = launch.log or Path(tempfile.mkstemp(prefix="worker.", suffix=".log", dir=home)[1])
        try:
            environment = launch.make_environment(home)
            ends = (read_request, write_response)
            words = (str(read_request), str(write_response))
            tree, log_start = _spawn(
                lambda info: launch.make_command(words, environment, exchange, info), launch, environment, log, ends
            )
        except BaseException:
            os.close(write_request)
            os.close(read_response)
            raise
        finally:
            os.close(read_request)
            os.close(write_response)
        return cls(log, tree, write_request, read_response, log_start)

    def send_request(self, line: bytes) -> None:
        """Send one line, whose response must be read before the next one is sent."""
        with suppress(BrokenPipeError):  # reading the response says how it died
            os.write(self._requests, line + b"\n")

    def read_response(self, seconds: float) -> bytes:
        """Return the line that answers the last request. Raises WorkerTimeout, WorkerDied or InvalidResponse."""
        deadline = time.monotonic() + seconds
        response = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._responses, selectors.EVENT_READ)
            while not response.endswith(b"\n"):
                response += self._read_some(selector, deadline)
                if len(response) > MAX_RESPONSE_BYTES:
                    raise InvalidResponse(f"its response is longer than {MAX_RESPONSE_BYTES} bytes")
        if response.count(b"\n") > 1:
            raise InvalidResponse("it sent several responses to one request")
        return bytes(response)

    def end(self) -> bool:
        """Kill everything that runs, cut the log to its limit, and return whether all of it is gone.

        What was sent before can still be received.
        """
        gone = self._tree.end()
        self._limit_log()
        return gone

    def interrupt(self) -> None:
        """Kill everything that runs, without waiting for its end."""
        self._tree.interrupt()

    def kill(self) -> str:
        """Kill everything that runs, close the pipes and return the last line that was printed."""
        self.end()
        for descriptor in (self._requests, self._responses):
            os.close(descriptor)
        return self._read_last_line()

    def _read_some(self, selector: selectors.BaseSelector, deadline: float) -> bytes:
        """Read some bytes of the response.

        The process is watched too, because its children may hold the pipe open after it has died.
        """
        while True:
            dead = self._tree.popen.poll() is not None
            if selector.select(0 if dead else POLL_SECONDS):
                if read := os.read(self._responses, 65536):
                    return read
                raise WorkerDied(self._describe_death())
            if dead:
                raise WorkerDied(self._describe_death())
            if time.monotonic() > deadline:
                raise WorkerTimeout
            self._watch_log()

    def _watch_log(self) -> None:
        """Raise InvalidResponse where the worker prints without end."""
        if time.monotonic() - self._watched_at < WATCH_SECONDS:
            return
        self._watched_at = time.monotonic()
        if self.log.stat().st_size - self._log_start > MAX_LOG_BYTES:
            raise InvalidResponse(f"it printed more than {MAX_LOG_BYTES} bytes")

    def _describe_death(self) -> str:
        try:
            code = self._tree.popen.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe without a response"
        code = SIGNAL_BASE - code if code > SIGNAL_BASE else code
        if code >= 0:
            return f"exited with code {code} without a response"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", probably out of memory" if name == "SIGKILL" else "")

    def _limit_log(self) -> None:
        """Cut the log where the worker made it longer than allowed after it was last looked at."""
        if self.log.stat().st_size - self._log_start > MAX_LOG_BYTES:
            os.truncate(self.log, self._log_start + MAX_LOG_BYTES)

    def _read_last_line(self) -> str:
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")


def _spawn(
    make_command: Callable[[int | None], list[str]],
    launch: WorkerLaunch,
    environment: dict[str, str],
    log: Path,
    descriptors: tuple[int, int],
) -> tuple[ProcessTree, int]:
    """Start a process that appends to `log`; also return where in the log it begins."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            start = output.tell()
            tree = start_tree(
                make_command,
                sandboxed=launch.isolation.applied,
                environment=environment,
                output=output,
                descriptors=descriptors,
            )
            return tree, start
    except (FileNotFoundError, PermissionError) as problem:
        raise RequestError(f"cannot start the subject's interpreter: {problem.filename}: {problem.strerror}") from None
    except OSError as problem:
        raise InfrastructureError(f"cannot start the subject's interpreter {launch.python}: {problem}") from None
