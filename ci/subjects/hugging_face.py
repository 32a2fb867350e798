"""The truth side: a Hugging Face checkpoint's forward pass through transformers, written as a trace.

Its variants are implementations that are all legitimate; what they differ by is the reference's own noise. The oracle
is `dtype="float64"` with the default variant: eager attention over double weights (transformers keeps norms, softmax
and RoPE in float32, so that it still has a floor near 3e-7), padded rows one by one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from ci.errors import HubTestsError, InfrastructureError, RequestError, SubjectError, UnsupportedError
from ci.subjects.base import GradientRequest, GradientResult, TraceRequest, TraceResult, Variant
from ci.subjects.float64_mode import compute_float64_throughout
from ci.subjects.forward import (
    DTYPES,
    Feed,
    Inputs,
    Recorder,
    exact_arithmetic,
    measured,
    read_inputs,
)
from ci.subjects.hugging_face_gradients import differentiate
from ci.subjects.hugging_face_taps import Taps, has_experts
from ci.subjects.resident import Key, Resident, content_key
from ci.subjects.row_files import BatchWriter, RowWriter
from ci.subjects.tracefile import TraceReader, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
BATCH = ("together", "row_by_row")


@dataclass
class HuggingFace:
    """Traces Hugging Face checkpoints. The last model stays loaded for the next trace of it; `release` lets it go."""

    trust_remote_code: bool = False
    _resident: Resident[Any] = field(default_factory=Resident, init=False, repr=False)
    _variants: dict[Key, tuple[Variant, ...]] = field(default_factory=dict, init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Forget the loaded model and give its memory back to the device."""
        self._resident.release()

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """The legitimate implementations for the model in the directory `checkpoint`, each axis's default first."""
        with _one_line(checkpoint, "cannot be read"):
            key = content_key(checkpoint)
            if key not in self._variants:
                self._variants[key] = _variants(self._skeleton(checkpoint))
            return self._variants[key]

    @compute_float64_throughout
    def trace(self, request: TraceRequest) -> TraceResult:
        """The forward pass of `request` as a trace directory; `load_seconds` is 0 where the model was loaded already.

        Raises SubjectError where the checkpoint does not load completely and exactly, or the forward fails;
        UnsupportedError for a variant the model does not have; InfrastructureError when the device is out of memory.
        """
        inputs = read_inputs(Path(request.inputs)).to(request.device)
        with _one_line(request.checkpoint, "does not load"):
            model, load_seconds = self._load(request)
        variant = self._variant(request, padded=inputs.mask is not None)
        _check_ids(inputs, model)
        with _one_line(request.checkpoint, "forward fails"), exact_arithmetic(), torch.inference_mode():
            _set_implementations(model, variant)
            if variant["batch"] == "row_by_row":
                return _trace_rows(model, request, inputs, load_seconds)
            writer = TraceWriter(Path(request.output))
            return _trace(model, request, inputs, _feed(request), writer, load_seconds)

    @compute_float64_throughout
    def gradients(self, request: GradientRequest) -> GradientResult:
        """Backward pass of `request` into a directory of gradients. The model is let go: they take its weights' place.

        Raises as `trace` does.
        """
        traced = TraceRequest(request.checkpoint, request.inputs, "", request.dtype, request.device, request.variant)
        with _one_line(request.checkpoint, "does not load"):
            model, _ = self._load(traced)
        variant = self._variant(traced, padded=False)
        try:
            with _one_line(request.checkpoint, "backward fails"), exact_arithmetic(), _quiet():
                _set_implementations(model, variant)
                return differentiate(model, request, variant)
        finally:
            del model
            self.release()

    def _skeleton(self, checkpoint: str) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=self.trust_remote_code, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=self.trust_remote_code)

    def _variant(self, request: TraceRequest, *, padded: bool) -> dict[str, str]:
        """Axis → name for every axis of the model: the request's, else the default.

        In float64 padded rows run alone unless asked otherwise: eager attention casts its mask's float64 minimum to
        float32 before the softmax, where it is -inf, and a row of padding becomes NaN that spreads.
        """
        known = self.variants(request.checkpoint)
        for axis, name in request.variant.items():
            if not any((v.axis, v.name) == (axis, name) for v in known):
                raise UnsupportedError(f"Hugging Face, {request.checkpoint}: no variant {axis}={name} of this model")
        defaults = {v.axis: v.name for v in known if v.default}
        if padded and request.dtype == "float64":
            defaults["batch"] = "row_by_row"
        return defaults | dict(request.variant)

    def _load(self, request: TraceRequest) -> tuple[Any, float]:
        """The model, and the seconds that loading it took; which variants it has is known from then on."""
        content = content_key(request.checkpoint)
        key = (*content, request.dtype, request.device)
        found = self._resident.get(key, lambda: self._from_pretrained(request).eval(), device=request.device)
        if content not in self._variants:
            self._variants[content] = _variants(found[0])
        return found

    def _from_pretrained(self, request: TraceRequest) -> Any:
        from transformers import AutoModelForCausalLM

        with _quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                request.checkpoint,
                dtype=DTYPES[request.dtype],
                attn_implementation="eager",
                trust_remote_code=self.trust_remote_code,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # so that the loading info names them
                output_loading_info=True,
                device_map=None if request.device == "cpu" else {"": request.device},  # straight to where it runs
            )
        problems = {kind: sorted(map(str, found)) for kind, found in info.items() if found}
        if problems:
            raise SubjectError(f"{request.checkpoint} does not load into {type(model).__name__} exactly: {problems}")
        return model


def _variants(skeleton: Any) -> tuple[Variant, ...]:
    axes = {"attention": ATTENTION, "experts": EXPERTS, "batch": BATCH}
    if not has_experts(skeleton):
        del axes["experts"]
    return tuple(Variant(axis, name, default=name == names[0]) for axis, names in axes.items() for name in names)


def _set_implementations(model: Any, variant: dict[str, str]) -> None:
    model.set_attn_implementation(variant["attention"])
    if "experts" in variant:
        model.set_experts_implementation(variant["experts"])


def _check_ids(inputs: Inputs, model: Any) -> None:
    """On a GPU an id out of range is an assertion on the device that takes the whole process along."""
    vocabulary = model.get_input_embeddings().num_embeddings
    if int(inputs.ids.max()) >= vocabulary:
        raise RequestError(f"input_ids hold {int(inputs.ids.max())}, the model's vocabulary ends at {vocabulary - 1}")


def _feed(request: TraceRequest) -> Feed | None:
    if request.feed is None:
        return None
    return Feed(TraceReader(Path(request.feed)), DTYPES[request.dtype], request.device)


def _trace(
    model: Any,
    request: TraceRequest,
    inputs: Inputs,
    feed: Feed | None,
    writer: TraceWriter | RowWriter,
    load_seconds: float = 0.0,
) -> TraceResult:
    recorder = Recorder(writer, inputs, DTYPES[request.dtype])
    taps = Taps(model, recorder, everything=request.capture == "all", feed=feed)
    with measured(request.device) as cost, taps.attached():
        kwargs = {} if inputs.mask is None else {"attention_mask": inputs.mask, "position_ids": inputs.position_ids()}
        logits = model(input_ids=inputs.ids, use_cache=False, **kwargs).logits
    seconds = cost.seconds - recorder.seconds
    recorder.put("logits", logits, ours=True)
    recorder.flush()
    missing = set(taps.expected()) - set(recorder.written) if taps.everything else ()
    return writer.finish(
        ran={**taps.ran, "batch": "together"},
        dtype=request.dtype,
        device=request.device,
        seconds=seconds,
        load_seconds=load_seconds,
        peak_device_bytes=cost.peak_device_bytes,
        not_captured=tuple(name for name in taps.expected() if name in missing),
    )


def _trace_rows(model: Any, request: TraceRequest, inputs: Inputs, load_seconds: float) -> TraceResult:
    """Each row alone and unpadded, into one trace of the batch."""
    batch, length = inputs.ids.shape
    writer, feed = BatchWriter(Path(request.output), batch=batch, length=length), _feed(request)
    results = []
    for row in range(batch):
        padding = inputs.padding(row)
        fed = feed and feed.of_row(row, padding)
        results.append(_trace(model, request, inputs.row(row), fed, writer.row(row, padding)))
    return writer.finish(
        ran={**results[0].ran, "batch": "row_by_row"},
        dtype=request.dtype,
        device=request.device,
        seconds=sum(result.seconds for result in results),
        load_seconds=load_seconds,
        peak_device_bytes=max(result.peak_device_bytes for result in results),
        not_captured=results[0].not_captured,
    )


@contextmanager
def _one_line(checkpoint: str, what: str) -> Iterator[None]:
    """Whatever transformers raises, as one line of ours."""
    try:
        yield
    except HubTestsError:
        raise
    except torch.cuda.OutOfMemoryError as problem:
        raise InfrastructureError(
            f"Hugging Face, {checkpoint}: out of memory on the device; reduce batch_size, sequence_length or layers "
            f"({_line(problem)})"
        ) from problem
    except Exception as problem:
        reason = f"{type(problem).__name__}: {_line(problem)}"
        raise SubjectError(f"Hugging Face, {checkpoint} {what}: {reason}") from problem


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no loading report on stderr: the loading info is checked here."""
    from transformers.utils import logging

    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
