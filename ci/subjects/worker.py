"""A subject in an interpreter of its own, as the judge sees it: every answer is hostile until validated.

One process at a time, started by the first call and again by the first call after a death. Each failure is one line
and a class (`ci.subjects.failure`); the worker's whole process group ends with the subject.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from ci.errors import SubjectError
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
from ci.subjects.failure import (
    ERRORS,
    Failure,
    SubjectCrashError,
    SubjectProtocolError,
    SubjectTimeoutError,
    one_line,
)
from ci.subjects.process import LONGEST_ANSWER, Answerless, Launch, Process, Silence, Unbounded
from ci.subjects.tracefile import TRACE_JSON, TraceReader

if TYPE_CHECKING:
    from ci.subjects.base import SubjectName

__all__ = ["Launch", "WorkerSubject"]

Result = TypeVar("Result")
Failed = TypeVar("Failed", bound=SubjectError)


@dataclass(frozen=True)
class Answer:
    """A line of the worker: a result, or a failure and its message."""

    __pydantic_config__: ClassVar = STRICT
    id: int
    result: Any = None
    failure: Failure | None = None
    message: str = ""


@dataclass
class WorkerSubject:
    """The Subject protocol over pipes; a context manager that ends the worker."""

    launch: Launch
    timeout: float
    _process: Process | None = field(default=None, init=False)
    _home: tempfile.TemporaryDirectory[str] = field(init=False)
    _calls: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        """The subject; its process starts with the first call."""
        self._home = tempfile.TemporaryDirectory(prefix="hub-tests-worker.")
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and everything it started."""
        self._end()
        self._home.cleanup()

    @property
    def name(self) -> SubjectName:
        """The subject's name."""
        return self.launch.subject

    def describe(self) -> Description:
        """Who answers."""
        return self._call("describe", {}, Description)

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """The implementation choices for a converted checkpoint."""
        return self._call("variants", {"checkpoint": checkpoint}, tuple[Variant, ...])

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Hugging Face directory to the subject's; what it says it wrote has to be there."""
        return self._written(request, self._call("convert", to_dict(request), ConvertResult))

    def export(self, request: ExportRequest) -> ConvertResult:
        """The subject's directory to a Hugging Face one; what it says it wrote has to be there."""
        return self._written(request, self._call("export", to_dict(request), ConvertResult))

    def trace(self, request: TraceRequest) -> TraceResult:
        """Forward pass into a trace directory, which has to say the same as the answer."""
        result = self._call("trace", to_dict(request), TraceResult)
        try:
            if (Path(request.output) / TRACE_JSON).stat().st_size > LONGEST_ANSWER:
                raise self._nonsense("trace", f"{TRACE_JSON} is longer than {LONGEST_ANSWER} bytes")
            written = TraceReader(Path(request.output)).result
        except OSError as problem:
            raise self._nonsense("trace", f"{problem.filename}: {problem.strerror}") from None
        except SubjectProtocolError:
            raise
        except SubjectError as problem:
            raise self._nonsense("trace", str(problem)) from None
        if written != result:
            raise self._nonsense("trace", f"its answer is not what {request.output} says")
        return result

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Forward and backward pass into a directory of gradients, which has to be there."""
        result = self._call("gradients", to_dict(request), GradientResult)
        if not (Path(request.output) / "model.safetensors").is_file():
            raise self._nonsense("gradients", f"it wrote no model.safetensors in {request.output}")
        return result

    def release(self) -> None:
        """Let the worker's loaded model go; a worker that does not run has none."""
        if self._process is not None:
            self._call("release", {}, bool)

    def _call(self, method: str, arguments: dict[str, Any], kind: type[Result]) -> Result:
        """Ask, wait, validate. A worker that failed otherwise than by a clean refusal is not asked again."""
        process = self._running()
        self._calls += 1
        line = json.dumps({"id": self._calls, "method": method, "arguments": arguments})
        try:
            answer = self._read(method, process.ask(line.encode(), self.timeout))
            if answer.failure is None:
                what = f"{self.name}, answer to {method}"
                return read_dict(kind, answer.result, what=what, error=SubjectProtocolError)
        except Silence:
            raise self._failed(SubjectTimeoutError, f"{method} took longer than {self.timeout:g} s, killed") from None
        except Answerless as death:
            raise self._failed(SubjectCrashError, f"{method}: the worker {death}") from None
        except Unbounded as excess:
            raise self._nonsense(method, str(excess)) from None
        except SubjectProtocolError:
            self._end()
            raise
        if answer.failure in ("out_of_memory", "crash", "protocol", "timeout"):
            self._end()
        raise ERRORS[answer.failure](one_line(answer.message) or f"{self.name}: {method} failed without a word")

    def _read(self, method: str, line: bytes) -> Answer:
        answer = read_json(Answer, line, what=f"{self.name}, answer to {method}", error=SubjectProtocolError)
        if answer.id != self._calls:
            raise self._nonsense(method, f"it answers request {answer.id}, not {self._calls}")
        return answer

    def _written(self, request: ConvertRequest | ExportRequest, result: ConvertResult) -> ConvertResult:
        target = Path(request.target).resolve()
        for file in result.files:
            path = (target / file).resolve()
            if not path.is_relative_to(target) or not path.is_file():
                raise self._nonsense("convert", f"it names a file that is not in {target}: {one_line(file, 100)}")
        return result

    def _running(self) -> Process:
        if self._process is None:
            self._process = Process.start(self.launch, Path(self._home.name))
        return self._process

    def _nonsense(self, method: str, reason: str) -> SubjectProtocolError:
        return self._failed(SubjectProtocolError, f"{method}: {reason}")

    def _failed(self, kind: type[Failed], reason: str) -> Failed:
        """The error, with the last line that the worker printed; the process is ended."""
        process, self._process = self._process, None
        said = process.end() if process else ""
        tail = f'; it last printed "{one_line(said, 200)}"' if said else ""
        where = f" (log: {process.log})" if process and self.launch.log else ""
        return kind(f"{self.name}: {one_line(reason)}{tail}{where}")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()
