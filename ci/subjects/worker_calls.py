"""Calls to a program that runs in an interpreter of its own. Every response is untrusted until it is validated.

There is one process at a time: the first call starts it, and so does the first call after it died. Each failure is one
line and a class (`ci.subjects.failure`). The worker's whole process group ends with the context.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self, TypeVar

from ci.errors import HubTestsError, InfrastructureError, SubjectError
from ci.phases import PhaseClock
from ci.records import STRICT, read_dict, read_json
from ci.subjects.compile_cache import CompiledCode
from ci.subjects.disk_watch import RESERVED_BYTES, RESERVED_FILES, SharedWatch, has_room
from ci.subjects.exchange import Exchange, copy_directory, fits_copy, hostile_directory, move_directory, remove_tree
from ci.subjects.exchange_tree import copy_tree, fits_tree_copy, move_tree
from ci.subjects.failure import (
    ERRORS,
    Failure,
    SubjectCrashError,
    SubjectProtocolError,
    SubjectTimeoutError,
    to_one_line,
)
from ci.subjects.interpreter_probe import check_interpreter_starts
from ci.subjects.worker_launch import WorkerLaunch
from ci.subjects.worker_process import InvalidResponse, WorkerDied, WorkerProcess, WorkerTimeout

Result = TypeVar("Result")
RESERVE = f"{RESERVED_BYTES // 2**30} GiB or {RESERVED_FILES} names"


@dataclass(frozen=True)
class Response:
    """A line of the worker: a result, or a failure and its message."""

    __pydantic_config__: ClassVar = STRICT
    id: int
    result: Any = None
    failure: Failure | None = None
    message: str = ""


@dataclass
class WorkerCalls:
    """Calls over the pipes of a worker; a context manager that ends the worker."""

    launch: WorkerLaunch
    timeout: float
    clock: PhaseClock = field(default_factory=PhaseClock)
    watch: SharedWatch = field(default_factory=SharedWatch)
    _process: WorkerProcess | None = field(default=None, init=False)
    _ending: Lock = field(default_factory=Lock, init=False)
    _entered: bool = field(default=False, init=False)
    _home: Path = field(init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _exchange: Exchange = field(init=False)
    _calls: int = field(default=0, init=False)
    _compiled: CompiledCode | None = field(default=None, init=False)
    _warming: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        """Return the subject; its process starts with the first call."""
        if self._entered:
            return self
        self._entered = True
        self._home, launch = self._stack.enter_context(hostile_directory("hub-tests-worker.")), self.launch
        readable = tuple(path.resolve() for path in launch.readable)
        self._exchange = Exchange(self._home / "exchange", launch.isolation, readable)
        if launch.compile_cache and launch.isolation.applied:
            self._compiled = CompiledCode.prepare(
                launch.compile_cache, launch.python, self._exchange.root, launch.isolation
            )
            self._exchange.compiled = self._compiled.directory
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and everything it started; keep what it compiled, where this run may."""
        self._end_process()
        if self._compiled:
            self._compiled.keep()
            self._log(f"compile cache: {self._compiled.describe()}")
        self._stack.close()

    @property
    def name(self) -> str:
        """The subject's name."""
        return self.launch.subject

    def warm_up(self) -> None:
        """Start the process, in its sandbox, and let it import its libraries, without waiting for that.

        The next call waits, and gets the error where the process does not start.
        """
        if self._process is None:
            self._running_process().send_request(self._make_line("prepare", {}))
            self._warming = True

    def interrupt(self) -> None:
        """End the process from another thread; the call that waits for it fails."""
        with self._ending:
            if self._process is not None:
                self._process.interrupt()

    def release(self) -> None:
        """Unload the worker's model; a worker that is not running has none."""
        if self._process is not None:
            self._call("release", {}, bool)

    def find_disk_failure(self) -> HubTestsError | None:
        """Return the failure of whoever left too little room for results, None where there is enough.

        The worker has ended then, and what it wrote is removed.
        """
        finding = self.watch.find(self)
        if not finding:
            return None
        self._end_process()
        if finding == "subject":
            return SubjectCrashError(f"{self.name}: filled the disk: ended with less than {RESERVE} free")
        return _describe_full_disk(self._home)

    def _call(self, method: str, arguments: dict[str, Any], kind: type[Result]) -> Result:
        """Send a request and return the validated result.

        After a plain refusal the worker is used again; after any other failure it is ended.
        """
        deadline = time.monotonic() + self.timeout
        self._await_start(method)
        process = self._running_process()
        process.send_request(self._make_line(method, arguments))
        return self._receive(method, process, deadline - time.monotonic(), kind)

    def _make_line(self, method: str, arguments: dict[str, Any]) -> bytes:
        self._calls += 1
        return json.dumps({"id": self._calls, "method": method, "arguments": arguments}).encode()

    def _await_start(self, method: str) -> None:
        """Wait until a process that was warmed up has its libraries, on behalf of a call of `method`.

        A subject that cannot prepare itself is asked all the same, and then says what is wrong.
        """
        if not self._warming:
            return
        self._warming = False
        with self.clock.measure("start", "subject"):
            try:
                self._receive(method, self._running_process(), self.timeout, bool)
            except HubTestsError:
                if self._process is None:  # it died, or answered nonsense
                    raise

    def _receive(self, method: str, process: WorkerProcess, seconds: float, kind: type[Result]) -> Result:
        """Return the validated result of the request that was sent last."""
        try:
            response = self._read_response(method, process.read_response(seconds))
            if response.failure is None:
                what = f"{self.name}, response to {method}"
                return read_dict(kind, response.result, what=what, error=SubjectProtocolError)
        except WorkerTimeout:
            reason = f"{method} took longer than {self.timeout:g} s, killed"
            raise self._end_with_error(SubjectTimeoutError, reason) from None
        except WorkerDied as death:
            raise self._end_with_error(SubjectCrashError, f"{method}: the worker {death}") from None
        except InvalidResponse as invalid:
            raise self._protocol_error(method, str(invalid)) from None
        except SubjectProtocolError:
            self._end_process()
            raise
        if response.failure == "infrastructure" and (filled := self.find_disk_failure()):
            raise filled
        if response.failure in ("out_of_memory", "crash", "protocol", "timeout"):
            self._end_process()
        message = to_one_line(response.message) or f"{self.name}: {method} failed without a message"
        raise _blame(response.failure)(self._exchange.restore_paths(message))

    def _read_response(self, method: str, line: bytes) -> Response:
        response = read_json(Response, line, what=f"{self.name}, response to {method}", error=SubjectProtocolError)
        if response.id != self._calls:
            raise self._protocol_error(method, f"it answers request {response.id}, not {self._calls}")
        return response

    def _stage(self, path: str) -> str:
        """Make a file or directory visible to the worker, and return its path there."""
        return str(self._exchange.stage(Path(path)))

    def _take(self, method: str, output: Path, target: Path, *, tree: bool = False) -> None:
        """Take what the worker wrote to where it cannot change it; the worker ends first where that is much.

        Only a `tree` may have directories in it.
        """
        fits, copy, move = fits_copy, copy_directory, move_directory
        if tree:
            fits, copy, move = fits_tree_copy, copy_tree, move_tree
        try:
            if fits(output):
                copy(output, target)
                remove_tree(output)
            else:
                self._end_before_move(method)
                move(output, target)
        except SubjectProtocolError as wrong:
            raise self._protocol_error(method, str(wrong)) from None
        except InfrastructureError as problem:
            raise self.find_disk_failure() or problem from None

    def _end_before_move(self, method: str) -> None:
        """End the process: as long as one of its own lives, it can still write to what is moved."""
        process = self._running_process()
        with self._ending:
            gone = process.end()
        if not gone:
            raise self._end_with_error(SubjectCrashError, f"{method}: its processes cannot be ended")
        self._end_process()

    def _running_process(self) -> WorkerProcess:
        """Return the process; start it where there is none and the disk has room for results."""
        if filled := self.find_disk_failure():
            raise filled
        if self._process is None:
            if not has_room(self._home):
                raise _describe_full_disk(self._home)
            self._process = WorkerProcess.start(self.launch, self._home, self._exchange)
            self.watch.join(self, (self._home, self._process.log.parent), self._reclaim)
        return self._process

    def _reclaim(self) -> None:
        """End what runs, and free what it wrote. Called by the watch, beside the call that may wait for a response."""
        with self._ending:
            if self._process is not None:
                self._process.end()
        if self._compiled:
            self._compiled.dropped = self._compiled.crashed = True
        self._exchange.clear_outbox()

    def _protocol_error(self, method: str, reason: str) -> HubTestsError:
        return self._end_with_error(SubjectProtocolError, f"{method}: {reason}")

    def _end_with_error(self, kind: type[SubjectError], reason: str) -> HubTestsError:
        """End the process and return the error, with the last line that the worker printed.

        On a full disk it is the error of whoever filled it.
        """
        if filled := self.find_disk_failure():
            return filled
        process = self._take_process()
        if self._compiled:
            self._compiled.crashed = True
        printed = process.kill() if process else ""
        check_interpreter_starts(self.launch.python, self.launch.isolation, printed)
        tail = f'; it last printed "{to_one_line(printed, 200)}"' if printed else ""
        where = f" (log: {process.log})" if process and self.launch.log else ""
        return kind(f"{self.name}: {to_one_line(reason)}{tail}{where}")

    def _log(self, line: str) -> None:
        if self.launch.log and self.launch.log.is_file():
            with self.launch.log.open("a", encoding="utf-8") as log:
                log.write(f"hub-tests: {to_one_line(line, 2000)}\n")

    def _end_process(self) -> None:
        if (process := self._take_process()) is not None:
            process.kill()

    def _take_process(self) -> WorkerProcess | None:
        """Return the process, which no other thread can reach any more."""
        self.watch.leave(self)
        with self._ending:
            process, self._process, self._warming = self._process, None, False
        return process


def _blame(failure: Failure) -> type[HubTestsError]:
    """Return the error of a failure: the worker cannot blame anybody but its subject."""
    kind = ERRORS[failure]
    return kind if issubclass(kind, SubjectError) else SubjectError


def _describe_full_disk(place: Path) -> InfrastructureError:
    return InfrastructureError(f"{place}: less than {RESERVE} free on its disk: make room, or set TMPDIR")
