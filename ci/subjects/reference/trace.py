"""Runs a traced forward pass: loads the model, runs block by block, and writes each scope when it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from ci.errors import UnsupportedError
from ci.subjects.failure import SubjectOutOfMemoryError, to_one_line
from ci.subjects.forward import (
    DTYPES,
    Inputs,
    TeacherForcing,
    TraceRecorder,
    exact_arithmetic,
    measure_cost,
    read_inputs,
)
from ci.subjects.image_trace import ImageRecorder
from ci.subjects.memory import weight_bytes
from ci.subjects.model_cache import ModelCache, checkpoint_key
from ci.subjects.reference.attention import ATTENTION
from ci.subjects.reference.config import Attention, StochasticMixer
from ci.subjects.reference.convert import stored_name
from ci.subjects.reference.directories import Checkpoint, open_fast_llm, read_fast_llm
from ci.subjects.reference.model import Context, Model, RecordTensor
from ci.subjects.reference.moe import MOE
from ci.subjects.trace_files import TraceWriter
from ci.tensor_names import EMBEDDINGS, LOGITS, is_block_level

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.base import TraceRequest, TraceResult
    from ci.subjects.reference.config import Architecture
    from ci.subjects.reference.parameter import Parameter
    from ci.subjects.reference.tensor_files import TensorFiles

AXES: Final = {"attention": tuple(ATTENTION), "moe": tuple(MOE)}
"""Every variant of each axis of implementations, the default first."""
MIXER_AXIS: Final = "mixer"
"""The axis of a stochastic mixer's mixers: other functions with weights of their own, so none of them is a default."""


def list_variants(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """Return a checkpoint's variants by axis, the default first where there is one.

    An axis is there only where some block has what it is about.
    """
    architecture = checkpoint.architecture
    experts = any(block.mlp.experts or block.routed for block in architecture.blocks)
    attention = any(isinstance(block.main_mixer, Attention) for block in architecture.blocks)
    here = {"moe": experts, "attention": attention}
    variants = {axis: names for axis, names in AXES.items() if here[axis]}
    return variants | ({MIXER_AXIS: names} if (names := list_mixers(architecture)) else {})


def list_mixers(architecture: Architecture) -> tuple[str, ...]:
    """Return the names that every block's stochastic mixer has; none where a block has a single mixer."""
    named = [b.mixer.mixers if isinstance(b.mixer, StochasticMixer) else () for b in architecture.blocks]
    return tuple(name for name, _ in named[0] if all(name in dict(mixers) for mixers in named))


def run_trace(request: TraceRequest, cache: ModelCache[Model]) -> TraceResult:
    """Run a forward pass and write its trace; the model stays in `cache`.

    Raises RequestError, SubjectError, UnsupportedError.
    """
    checkpoint, inputs = read_fast_llm(Path(request.checkpoint)), read_inputs(Path(request.inputs))
    inputs.check_vocabulary(checkpoint.architecture.vocabulary)
    inputs = inputs.to(request.device)
    context = make_context(request, checkpoint, inputs)
    try:
        with exact_arithmetic(), torch.inference_mode():
            return _trace(request, checkpoint, inputs, context, cache)
    except torch.OutOfMemoryError as problem:
        cache.release()
        raise SubjectOutOfMemoryError(
            f"reference, {request.checkpoint}: out of memory on {request.device}; reduce batch_size, sequence_length "
            f"or layers ({to_one_line(str(problem), 200)})"
        ) from problem


def make_context(request: TraceRequest, checkpoint: Checkpoint, inputs: Inputs) -> Context:
    """Return what the blocks of this request share.

    Raises UnsupportedError for a variant that the model lacks.

    Padding is a document of its own, to which no real token attends; positions start at 0 after it, as in transformers.
    """
    offered = list_variants(checkpoint)
    for axis, name in request.variant.items():
        if name not in offered.get(axis, ()):
            raise UnsupportedError(f"reference, {request.checkpoint}: this model has no variant {axis}={name}")
    positions = inputs.position_ids()
    if positions is None:
        positions = torch.arange(inputs.ids.shape[1], device=inputs.ids.device)[None]
    attention, moe = (request.variant.get(axis, names[0]) for axis, names in AXES.items())
    mixer = request.variant.get(MIXER_AXIS, "")
    return Context(positions, documents=inputs.mask, attention=attention, moe=moe, mixer=mixer)


def _trace(
    request: TraceRequest, checkpoint: Checkpoint, inputs: Inputs, context: Context, cache: ModelCache[Model]
) -> TraceResult:
    dtype = DTYPES[request.dtype]
    feed = TeacherForcing.of_request(request)
    recorder = TraceRecorder(writer := TraceWriter(Path(request.output)), inputs, dtype)
    key = (*checkpoint_key(request.checkpoint), dtype, request.device)
    model, load_seconds = cache.get(
        key,
        lambda: load_model(checkpoint, dtype, request.device),
        device=request.device,
        size=weight_bytes(Path(request.checkpoint), dtype.itemsize),
    )
    with measure_cost(request.device) as cost:
        run_forward(model, inputs, context, recorder, feed=feed, capture_all=request.capture == "all")
    return writer.finish(
        ran=context.ran,
        dtype=request.dtype,
        device=request.device,
        seconds=cost.seconds - recorder.seconds,
        load_seconds=load_seconds,
        peak_device_bytes=cost.peak_device_bytes,
    )


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> Model:
    """Load a model to a device.

    Each parameter is allocated there once and filled block by block.
    """
    with open_fast_llm(checkpoint) as tensors:
        weights = {p.name: _load_parameter(p, tensors, dtype, device) for p in checkpoint.parameters}
    return Model(checkpoint.architecture, weights)


def _load_parameter(parameter: Parameter, tensors: TensorFiles, dtype: torch.dtype, device: str) -> Tensor:
    if device != "cpu":
        return tensors.read_tensor(stored_name(parameter), device).to(dtype)
    loaded, at = torch.empty(parameter.shape, dtype=dtype), 0
    for block in tensors.read_blocks(stored_name(parameter)):
        loaded[at : at + len(block)].copy_(block)
        at += len(block)
    return loaded


def run_forward(
    model: Model,
    inputs: Inputs,
    context: Context,
    recorder: TraceRecorder,
    *,
    feed: TeacherForcing | None,
    capture_all: bool,
) -> None:
    """Run the whole pass and write each scope when it is finished.

    With `feed` each block starts from the other trace.
    """
    record, blocks = _select_tensors(recorder, capture_all=capture_all), len(model.architecture.blocks)
    token = model.architecture.image_token
    images = ImageRecorder.of_inputs(recorder, token, capture_all=capture_all, feed=feed)
    before = hidden = model.embed_all(inputs, context, images)
    if images is not None:
        images.finish(hidden)
    recorder.record(EMBEDDINGS, hidden)
    recorder.flush()
    for index in range(blocks):
        before = feed.read_block_input(index) if feed else hidden
        hidden = model.run_block(index, before, context, record)
        recorder.flush()
    model.run_head(feed.read_block_input(blocks) if feed else hidden, record)
    model.run_prediction_heads(before, context, record)
    recorder.flush()


def _select_tensors(recorder: TraceRecorder, *, capture_all: bool) -> RecordTensor:
    """Return a function that records tensors.

    Without `capture_all` it leaves out those inside a block.
    """

    def record(name: str, tensor: Tensor) -> None:
        if capture_all or is_block_level(name):
            recorder.record(name, tensor, copy=name != LOGITS)

    return record
