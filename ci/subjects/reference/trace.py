"""From a TraceRequest to a trace directory: load, run block by block, flush each scope as it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from ci.errors import RequestError, UnsupportedError
from ci.subjects.failure import SubjectOutOfMemoryError, one_line
from ci.subjects.forward import (
    DTYPES,
    Feed,
    Inputs,
    Recorder,
    exact_arithmetic,
    measured,
    read_inputs,
)
from ci.subjects.memory import weight_bytes
from ci.subjects.reference.attention import ATTENTION
from ci.subjects.reference.convert import Parameter, weights_key
from ci.subjects.reference.directories import Checkpoint, open_fast_llm, read_fast_llm
from ci.subjects.reference.model import Context, Model, Tap
from ci.subjects.reference.moe import MOE
from ci.subjects.resident import Resident, content_key
from ci.subjects.tracefile import TraceReader, TraceWriter

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.base import TraceRequest, TraceResult
    from ci.subjects.reference.checkpoint import Tensors

AXES: Final = {"attention": tuple(ATTENTION), "moe": tuple(MOE)}
"""Every variant of each axis, the default first."""


def axes(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """The axes that matter for a checkpoint: "moe" only where it has experts."""
    experts = any(block.mlp.experts is not None for block in checkpoint.architecture.blocks)
    return {axis: names for axis, names in AXES.items() if axis != "moe" or experts}


def run_trace(request: TraceRequest, resident: Resident[Model]) -> TraceResult:
    """Answer a TraceRequest; the model stays `resident`. Raises RequestError, SubjectError, UnsupportedError."""
    checkpoint, inputs = read_fast_llm(Path(request.checkpoint)), read_inputs(Path(request.inputs))
    _check_ids(inputs, checkpoint)
    inputs = inputs.to(request.device)
    context = context_of(request, checkpoint, inputs)
    try:
        with exact_arithmetic(), torch.inference_mode():
            return _trace(request, checkpoint, inputs, context, resident)
    except torch.OutOfMemoryError as problem:
        resident.release()
        raise SubjectOutOfMemoryError(
            f"reference, {request.checkpoint}: out of memory on {request.device}; reduce batch_size, sequence_length "
            f"or layers ({one_line(str(problem), 200)})"
        ) from problem


def _check_ids(inputs: Inputs, checkpoint: Checkpoint) -> None:
    highest, vocabulary = int(inputs.ids.max()), checkpoint.architecture.vocabulary
    if highest >= vocabulary:
        raise RequestError(f"input_ids hold {highest}, the model's vocabulary ends at {vocabulary - 1}")


def context_of(request: TraceRequest, checkpoint: Checkpoint, inputs: Inputs) -> Context:
    """What the blocks of this request share. Raises UnsupportedError for a variant that the model does not have.

    Padding is a document of its own that nobody else sees; positions start at 0 after it, as in transformers."""
    offered = axes(checkpoint)
    for axis, name in request.variant.items():
        if name not in offered.get(axis, ()):
            raise UnsupportedError(f"reference, {request.checkpoint}: no variant {axis}={name} of this model")
    positions = inputs.position_ids()
    if positions is None:
        positions = torch.arange(inputs.ids.shape[1], device=inputs.ids.device)[None]
    attention, moe = (request.variant.get(axis, names[0]) for axis, names in AXES.items())
    return Context(positions, documents=inputs.mask, attention=attention, moe=moe)


def _trace(
    request: TraceRequest, checkpoint: Checkpoint, inputs: Inputs, context: Context, resident: Resident[Model]
) -> TraceResult:
    dtype = DTYPES[request.dtype]
    feed = None if request.feed is None else Feed(TraceReader(Path(request.feed)), dtype, request.device)
    recorder = Recorder(writer := TraceWriter(Path(request.output)), inputs, dtype)
    key = (*content_key(request.checkpoint), dtype, request.device)
    model, load_seconds = resident.get(
        key,
        lambda: load(checkpoint, dtype, request.device),
        device=request.device,
        size=weight_bytes(Path(request.checkpoint), dtype.itemsize),
    )
    with measured(request.device) as cost:
        forward(model, inputs, context, recorder, feed=feed, everything=request.capture == "all")
    return writer.finish(
        ran=context.ran,
        dtype=request.dtype,
        device=request.device,
        seconds=cost.seconds - recorder.seconds,
        load_seconds=load_seconds,
        peak_device_bytes=cost.peak_device_bytes,
    )


def load(checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> Model:
    """The model on a device: each parameter is allocated there once and filled block by block from its file."""
    with open_fast_llm(checkpoint) as tensors:
        weights = {p.name: _loaded(p, tensors, dtype, device) for p in checkpoint.parameters}
    return Model(checkpoint.architecture, weights)


def _loaded(parameter: Parameter, tensors: Tensors, dtype: torch.dtype, device: str) -> Tensor:
    if device != "cpu":
        return tensors.whole(weights_key(parameter), device).to(dtype)
    loaded, at = torch.empty(parameter.shape, dtype=dtype), 0
    for block in tensors.blocks(weights_key(parameter)):
        loaded[at : at + len(block)].copy_(block)
        at += len(block)
    return loaded


def forward(
    model: Model, inputs: Inputs, context: Context, recorder: Recorder, *, feed: Feed | None, everything: bool
) -> None:
    """The whole pass, each scope flushed when it is done; with `feed`, each block starts from the other trace."""
    tap, blocks = _tap(recorder, everything=everything), len(model.architecture.blocks)
    hidden = model.embed(inputs.ids)
    recorder.put("embeddings", hidden)
    recorder.flush()
    for index in range(blocks):
        hidden = model.block(index, feed.into(index) if feed else hidden, context, tap)
        recorder.flush()
    model.head(feed.into(blocks) if feed else hidden, tap)
    recorder.flush()


def _tap(recorder: Recorder, *, everything: bool) -> Tap:
    """All names, or those above a block's operations: `decoder.3` but not `decoder.3.mlp`."""
    wanted = (lambda _: True) if everything else (lambda name: name.count(".") < 2)
    return lambda name, tensor: recorder.put(name, tensor, ours=name == "logits") if wanted(name) else None
