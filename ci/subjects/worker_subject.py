"""A subject that runs in an interpreter of its own. Every response is untrusted until it is validated.

There is one process at a time, and another one for a large conversion: the first call starts it, and so does the first
call after it died. Each failure is one line and a class (`ci.subjects.failure`). The worker's whole process group ends
with the subject.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from ci.errors import HubTestsError, InfrastructureError, RequestError, SubjectError, UnsupportedError
from ci.phases import PhaseClock
from ci.records import STRICT, read_dict, read_json, to_dict
from ci.subjects.base import (
    ConvertRequest,
    ConvertResult,
    Description,
    ExportRequest,
    GradientRequest,
    GradientResult,
    TraceRequest,
    TraceResult,
    Variant,
)
from ci.subjects.compile_cache import CompiledCode
from ci.subjects.disk_watch import RESERVED_BYTES, RESERVED_FILES, SharedWatch, has_room
from ci.subjects.exchange import Exchange, copy_directory, fits_copy, hostile_directory, move_directory, remove_tree
from ci.subjects.exchange_tree import copy_tree, fits_tree_copy, move_tree
from ci.subjects.failure import (
    ERRORS,
    Failure,
    SubjectCrashError,
    SubjectOutOfMemoryError,
    SubjectProtocolError,
    SubjectTimeoutError,
    to_one_line,
)
from ci.subjects.registry import find_offer
from ci.subjects.training import TrainRequest, TrainResult, list_step_files
from ci.subjects.unconverted import link_checkpoint
from ci.subjects.worker_process import (
    MAX_RESPONSE_BYTES,
    InvalidResponse,
    WorkerDied,
    WorkerLaunch,
    WorkerProcess,
    WorkerTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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
class WorkerSubject:
    """The Subject protocol over pipes; a context manager that ends the worker."""

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
    _description: Description | None = field(default=None, init=False)
    _calls: int = field(default=0, init=False)
    _compiled: CompiledCode | None = field(default=None, init=False)
    _warming: bool = field(default=False, init=False)
    _converter: WorkerSubject | None = field(default=None, init=False)

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
        if self._converter is not None:
            self._converter.__exit__()
        if self._compiled:
            self._compiled.keep()
            self._log(f"compile cache: {self._compiled.describe()}")
        self._stack.close()

    @property
    def name(self) -> str:
        """The subject's name."""
        return self.launch.subject

    def warm_up(self, source: Path | None = None) -> None:
        """Start the process, in its sandbox, and let it import its libraries, without waiting for that.

        The next call waits, and gets the error where the process does not start. Where `source` will be converted in
        a process of its own, that one starts too.
        """
        if self._process is None:
            self._running_process().send_request(self._make_line("prepare", {}))
            self._warming = True
        if source is not None and self._converter is None and self.converts_apart(str(source)):
            self._converter = self.make_converter().__enter__()
            self._converter.warm_up()

    def warm_device(self, device: str) -> None:
        """Let the process make a GPU ready, without waiting, while another one is about to convert.

        A process that converts itself is busy, and one that runs on the CPU has nothing to make ready.
        """
        if device == "cpu" or self._converter is None:
            return
        self._await_start("prepare")
        self._running_process().send_request(self._make_line("prepare_device", {"device": device}))
        self._warming = True

    def describe(self) -> Description:
        """Return the subject's name, version, commit, libraries and formats."""
        if self._description is None:
            self._description = self._try_twice(lambda: self._call("describe", {}, Description))
        return self._description

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the implementations that can be chosen for a converted checkpoint."""
        arguments = {"checkpoint": self._stage(checkpoint)}
        return self._try_twice(lambda: self._call("variants", arguments, tuple[Variant, ...]))

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Convert a Hugging Face directory; check that every file it names is there.

        A large one is converted in a process of its own, where the sandbox keeps that one's output from this one.
        Elsewhere a process that had to end for a large checkpoint starts again at once: traces follow. Where the offer
        leaves the conversion out, the subject reads the same files, linked at the target.
        """
        if not find_offer(self.name).converts:
            return link_checkpoint(Path(request.source), Path(request.target))
        if self.converts_apart(request.source):
            converter, self._converter = self._converter or self.make_converter(), None
            with converter:
                return converter.write_checkpoint("convert", request)
        warm = self._process is not None
        result = self._try_twice(lambda: self.write_checkpoint("convert", request), request.target)
        if warm:
            self.warm_up()
        return result

    def export(self, request: ExportRequest) -> ConvertResult:
        """Export to a Hugging Face directory; check that every file it names is there."""
        return self._try_twice(lambda: self.write_checkpoint("export", request), request.target)

    def write_checkpoint(self, method: str, request: ConvertRequest | ExportRequest) -> ConvertResult:
        """Let this worker's own process convert or export; check that every file it names is there."""
        if Path(request.target).exists():
            raise RequestError(f"{method}: {request.target} exists; name a directory that does not")
        output = self._exchange.next_output()
        staged = replace(request, source=self._stage(request.source), target=str(output))
        result = self._call(method, to_dict(staged), ConvertResult)
        self._take(method, output, Path(request.target))
        written = {path.name for path in Path(request.target).iterdir()}
        for file in result.files:
            if file not in written:
                reason = f"it names a file that is not in {request.target}: {to_one_line(file, 100)}"
                raise self._protocol_error(method, reason)
        return result

    def converts_apart(self, source: str) -> bool:
        """Return whether a process of its own converts a directory, whose output is about as large.

        Of a large output no process may be left that can write to it. In a sandbox, only the one that wrote it can.
        """
        possible = self.launch.isolation.applied and find_offer(self.name).converts
        return possible and not fits_copy(Path(source))

    def make_converter(self) -> WorkerSubject:
        """Return another worker for one conversion, for use as a context manager. It compiles nothing."""
        return WorkerSubject(replace(self.launch, compile_cache=None), self.timeout, self.clock, self.watch)

    def interrupt(self) -> None:
        """End the process, on behalf of another thread than the one whose call waits for it and fails then."""
        with self._ending:
            if self._process is not None:
                self._process.interrupt()

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run a forward pass into a trace directory; check that its trace.json equals the response."""
        return self._try_twice(lambda: self._trace(request), request.output)

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run a backward pass into a directory of gradients; check that their file is there."""
        return self._try_twice(lambda: self._gradients(request), request.output)

    def train(self, request: TrainRequest) -> TrainResult:
        """Run training steps in the request's layout; check that the files of each step are there."""
        return self._try_twice(lambda: self._train("train", request, list_step_files(request.steps)), request.output)

    def release(self) -> None:
        """Unload the worker's model; a worker that is not running has none."""
        if self._process is not None:
            self._call("release", {}, bool)

    def uses_compile_cache(self) -> bool:
        """Tell whether the worker has code that earlier runs compiled."""
        return self._compiled is not None and self._compiled.in_use

    def drop_compile_cache(self) -> bool:
        """End the worker and empty its copy of earlier runs' code; return whether there was any."""
        if self._compiled is None or not self._compiled.in_use:
            return False
        self._end_process()
        self._compiled.drop()
        self._exchange.compiled = self._compiled.directory
        return True

    def blame_compile_cache(self) -> None:
        """Note that the dropped code was wrong: a run that may fill the cache removes it there too."""
        if self._compiled:
            self._compiled.stale = True

    def compile_cache_figures(self) -> Mapping[str, float]:
        """Return the files, bytes and seconds of the copy; empty where there is none."""
        return self._compiled.figures if self._compiled else {}

    def _try_twice(self, call: Callable[[], Result], target: str | None = None) -> Result:
        """Make a call, once more without code of earlier runs where it fails with it, other than for want of memory.

        `target` is what the call writes.
        """
        try:
            return call()
        except (UnsupportedError, SubjectOutOfMemoryError):
            raise  # no compiled code is the cause
        except SubjectError:
            if not self.drop_compile_cache():
                raise
            if target:
                remove_tree(Path(target))
        result = call()
        self.blame_compile_cache()
        return result

    def _trace(self, request: TraceRequest) -> TraceResult:
        from ci.subjects.trace_files import TRACE_JSON, TraceReader  # imports torch: a worker starts without it

        output = self._exchange.next_output()
        staged = replace(
            request,
            checkpoint=self._stage(request.checkpoint),
            inputs=self._stage(request.inputs),
            feed=self._stage(request.feed) if request.feed else None,
            output=str(output),
        )
        result = self._call("trace", to_dict(staged), TraceResult)
        self._take("trace", output, Path(request.output))
        try:
            if (Path(request.output) / TRACE_JSON).stat().st_size > MAX_RESPONSE_BYTES:
                raise self._protocol_error("trace", f"{TRACE_JSON} is longer than {MAX_RESPONSE_BYTES} bytes")
            written = TraceReader(Path(request.output)).result
        except OSError as problem:
            raise self._protocol_error("trace", f"{problem.filename}: {problem.strerror}") from None
        except SubjectProtocolError:
            raise
        except SubjectError as problem:
            raise self._protocol_error("trace", str(problem)) from None
        if written != result:
            raise self._protocol_error("trace", f"its response differs from {TRACE_JSON} in {request.output}")
        return result

    def _gradients(self, request: GradientRequest) -> GradientResult:
        output = self._exchange.next_output()
        checkpoint, inputs = self._stage(request.checkpoint), self._stage(request.inputs)
        staged = replace(request, checkpoint=checkpoint, inputs=inputs, output=str(output))
        result = self._call("gradients", to_dict(staged), GradientResult)
        self._take("gradients", output, Path(request.output))
        if not (Path(request.output) / "model.safetensors").is_file():
            raise self._protocol_error("gradients", f"it wrote no model.safetensors in {request.output}")
        return result

    def _train(self, method: str, request: TrainRequest, files: Sequence[str]) -> TrainResult:
        """Let the worker train; check that the files below the output directory are there."""
        output = self._exchange.next_output()
        staged = replace(
            request,
            checkpoint=self._stage(request.checkpoint),
            inputs=self._stage(request.inputs),
            resume=self._stage(request.resume) if request.resume else None,
            output=str(output),
        )
        result = self._call(method, to_dict(staged), TrainResult)
        self._take(method, output, Path(request.output), tree=True)
        for name in files:
            if not (Path(request.output) / name).is_file():
                raise self._protocol_error(method, f"it wrote no {name} in {request.output}")
        return result

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
