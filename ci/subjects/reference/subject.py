"""The reference subject behind the protocol of `ci.subjects.base`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import ci
from ci.companion_files import copy_companions
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
from ci.subjects.model_cache import ModelCache
from ci.subjects.provenance import find_commit, installed_versions, python_version
from ci.subjects.reference.config_json_formats import write_any_config
from ci.subjects.reference.convert import to_fast_llm, to_huggingface
from ci.subjects.reference.directories import (
    MODELS,
    open_fast_llm,
    open_huggingface,
    read_fast_llm,
    read_huggingface,
    write_fast_llm,
    write_huggingface,
)
from ci.subjects.reference.gradients import run_gradients
from ci.subjects.reference.model import Model
from ci.subjects.reference.offer import OFFER, SEEING_FORMATS
from ci.subjects.reference.tensor_files import create_directory
from ci.subjects.reference.trace import MIXER_AXIS, list_variants, run_trace
from ci.subjects.reference.training import run_training
from ci.subjects.written_files import list_written

if TYPE_CHECKING:
    from ci.subjects.training import TrainRequest, TrainResult

DISTRIBUTION = "hub-tests"
SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def _make_cache() -> ModelCache[Model]:
    """Return a cache of two models: a comparison alternates between float32 and the model's dtype."""
    return ModelCache(capacity=2)


@dataclass
class ReferenceSubject:
    """The reference behind the Subject protocol; the last traced models stay loaded until `release`."""

    _cache: ModelCache[Model] = field(default_factory=_make_cache, init=False, repr=False, compare=False)

    def describe(self) -> Description:
        """Return version, commit of the checkout, libraries, and the formats that it converts."""
        return Description(
            subject="reference",
            version=installed_versions((DISTRIBUTION,)).get(DISTRIBUTION, "unknown"),
            commit=find_commit(Path(ci.__file__).parent, DISTRIBUTION),
            python=python_version(),
            libraries=installed_versions(("torch", "safetensors")),
            formats=OFFER.formats,
        )

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return every implementation of what the model has, and the mixers that take turns."""
        return tuple(
            Variant(axis, name, default=index == 0 and axis != MIXER_AXIS)
            for axis, names in list_variants(read_fast_llm(Path(checkpoint))).items()
            for index, name in enumerate(names)
        )

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Convert a Hugging Face directory to Fast-LLM's `fast_llm` format. Raises SubjectError."""
        started, target = time.perf_counter(), Path(request.target)
        _check_model_config(request)
        checkpoint = read_huggingface(Path(request.source), request.checkpoint_format)
        with open_huggingface(checkpoint) as tensors, create_directory(target) as part:
            write_fast_llm(part, checkpoint, to_fast_llm(checkpoint.parameters, tensors))
            copy_companions(Path(request.source), part)
        return list_written(target, started)

    def export(self, request: ExportRequest) -> ConvertResult:
        """Convert a `fast_llm` directory to a Hugging Face directory in `request.dtype`. Raises SubjectError."""
        started, target = time.perf_counter(), Path(request.target)
        _check_model_config(request)
        if request.dtype not in SAFETENSORS_DTYPES:
            raise UnsupportedError(f"export to {request.dtype} is not implemented by the reference subject")
        checkpoint = read_fast_llm(Path(request.source), request.checkpoint_format)
        config = write_any_config(
            checkpoint.architecture, request.checkpoint_format, request.dtype, checkpoint.original
        )
        with open_fast_llm(checkpoint) as tensors, create_directory(target) as part:
            planned = to_huggingface(checkpoint.parameters, tensors)
            write_huggingface(part, config, planned, SAFETENSORS_DTYPES[request.dtype])
            copy_companions(Path(request.source), part)
        return list_written(target, started)

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the forward pass of a `fast_llm` directory. Raises SubjectError, RequestError."""
        return run_trace(request, self._cache)

    def release(self) -> None:
        """Unload the models."""
        self._cache.release()

    def gradients(self, request: GradientRequest) -> GradientResult:
        """Run the backward pass of a `fast_llm` directory. Raises SubjectError, RequestError."""
        self.release()
        return run_gradients(request)

    def train(self, request: TrainRequest) -> TrainResult:
        """Run training steps in the request's layout. Raises UnsupportedError, SubjectError, RequestError."""
        self.release()
        return run_training(request)


def _check_model_config(request: ConvertRequest | ExportRequest) -> None:
    expected = MODELS[request.checkpoint_format in SEEING_FORMATS]
    if (name := request.model_config) != expected:
        raise UnsupportedError(
            f"model_config {name!r} of format {request.checkpoint_format!r} is not implemented by the reference "
            f"subject: {expected!r} is"
        )
