"""The reference subject behind the protocol of `ci.subjects.base`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import ci
from ci.errors import UnsupportedError
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
from ci.subjects.provenance import commit_of, libraries, python_version
from ci.subjects.reference.checkpoint import new_directory
from ci.subjects.reference.convert import to_fast_llm, to_huggingface
from ci.subjects.reference.directories import (
    open_fast_llm,
    open_huggingface,
    read_fast_llm,
    read_huggingface,
    write_fast_llm,
    write_huggingface,
)
from ci.subjects.reference.gradients import run_gradients
from ci.subjects.reference.huggingface import FAMILIES
from ci.subjects.reference.huggingface_write import write_config
from ci.subjects.reference.model import Model
from ci.subjects.reference.trace import axes, run_trace
from ci.subjects.resident import Resident

DISTRIBUTION = "hub-tests"
STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def _both_dtypes() -> Resident[Model]:
    """A judge goes to and fro between float32 and the model's dtype."""
    return Resident(most=2)


@dataclass
class ReferenceSubject:
    """Ours, for use in any process. The protocol's Subject; the last models traced stay loaded until `release`."""

    _resident: Resident[Model] = field(default_factory=_both_dtypes, init=False, repr=False, compare=False)

    def describe(self) -> Description:
        """Who answers."""
        return Description(
            subject="reference",
            version=libraries((DISTRIBUTION,)).get(DISTRIBUTION, "unknown"),
            commit=commit_of(Path(ci.__file__).parent, DISTRIBUTION),
            python=python_version(),
            libraries=libraries(("torch", "safetensors")),
            formats=tuple(FAMILIES),
        )

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Every attention implementation; every mixture implementation where the model has experts."""
        return tuple(
            Variant(axis, name, default=index == 0)
            for axis, names in axes(read_fast_llm(Path(checkpoint))).items()
            for index, name in enumerate(names)
        )

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Hugging Face directory to Fast-LLM's `fast_llm` format. Raises SubjectError, UnsupportedError."""
        started, target = time.perf_counter(), Path(request.target)
        _check_model_config(request.model_config)
        checkpoint = read_huggingface(Path(request.source), request.checkpoint_format)
        with open_huggingface(checkpoint) as tensors, new_directory(target) as part:
            write_fast_llm(part, checkpoint, to_fast_llm(checkpoint.parameters, tensors))
        return _result(target, started)

    def export(self, request: ExportRequest) -> ConvertResult:
        """`fast_llm` format back to a Hugging Face directory in `request.dtype`. Raises SubjectError."""
        started, target = time.perf_counter(), Path(request.target)
        _check_model_config(request.model_config)
        if request.dtype not in STORED:
            raise UnsupportedError(f"export to {request.dtype} is not implemented by the reference subject")
        checkpoint = read_fast_llm(Path(request.source))
        config = write_config(checkpoint.architecture, request.checkpoint_format, request.dtype, checkpoint.original)
        with open_fast_llm(checkpoint) as tensors, new_directory(target) as part:
            planned = to_huggingface(checkpoint.parameters, tensors)
            write_huggingface(part, config, planned, STORED[request.dtype])
        return _result(target, started)

    def trace(self, request: TraceRequest) -> TraceResult:
        """Forward pass of a `fast_llm` directory. Raises SubjectError, UnsupportedError, RequestError."""
        return run_trace(request, self._resident)

    def release(self) -> None:
        """Let the loaded model go."""
        self._resident.release()

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Backward pass of a `fast_llm` directory, by Hugging Face's names. Raises SubjectError, RequestError."""
        self.release()
        return run_gradients(request)


def _result(target: Path, started: float) -> ConvertResult:
    files = sorted(path for path in target.iterdir())
    return ConvertResult(
        files=tuple(path.name for path in files),
        bytes_written=sum(path.stat().st_size for path in files),
        seconds=time.perf_counter() - started,
    )


def _check_model_config(name: str) -> None:
    if name != "gpt":
        raise UnsupportedError(f"model_config {name!r} is not implemented by the reference subject: 'gpt' is")
