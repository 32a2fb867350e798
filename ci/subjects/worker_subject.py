"""A subject that runs in an interpreter of its own: the protocol's methods as calls to its worker.

A large conversion gets another process. Code that earlier runs compiled is dropped where a call fails with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.companion_files import list_files
from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.records import to_dict
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
from ci.subjects.exchange import fits_copy, remove_tree
from ci.subjects.failure import SubjectOutOfMemoryError, SubjectProtocolError, to_one_line
from ci.subjects.registry import find_offer
from ci.subjects.training import TrainRequest, TrainResult, list_step_files
from ci.subjects.unconverted import link_checkpoint
from ci.subjects.worker_calls import Result, WorkerCalls
from ci.subjects.worker_process import MAX_RESPONSE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass
class WorkerSubject(WorkerCalls):
    """The Subject protocol over pipes; a context manager that ends the worker."""

    _description: Description | None = field(default=None, init=False)
    _converter: WorkerSubject | None = field(default=None, init=False)

    def __exit__(self, *_: object) -> None:
        """End the processes and everything they started; keep what was compiled, where this run may."""
        if self._converter is not None:
            self._converter.__exit__()
        super().__exit__()

    def prepare_for(self, source: Path) -> None:
        """Warm up the worker, and another one too where `source` will be converted in a process of its own."""
        self.warm_up()
        if self._converter is None and self.converts_apart(str(source)):
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

        A large one is converted in a process of its own, so that none is left that can write to the output. Where this
        worker's process had to end for that instead, it starts again at once, because traces follow. Where the offer
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
        self._take(method, output, Path(request.target), tree=True)
        written = set(list_files(Path(request.target), ("**/*",)))
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

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run a forward pass into a trace directory; check that its trace.json equals the response."""
        return self._try_twice(lambda: self._trace(request), request.output)

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run a backward pass into a directory of gradients; check that their file is there."""
        return self._try_twice(lambda: self._gradients(request), request.output)

    def train(self, request: TrainRequest) -> TrainResult:
        """Run training steps in the request's layout; check that the files of each step are there."""
        return self._try_twice(lambda: self._train("train", request, list_step_files(request.steps)), request.output)

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
        """Make a call; repeat it without code of earlier runs where it fails with it.

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
