"""One forward pass of a loaded model, written as a trace: of the whole batch at once, or row by row."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.subjects.forward import DTYPES, Inputs, TeacherForcing, TraceRecorder, measure_cost
from ci.subjects.hugging_face.hooks import ForwardHooks, record_heads
from ci.subjects.hugging_face.structure import find_prediction_blocks
from ci.subjects.trace_rows import BatchTraceWriter, RowTraceWriter
from ci.tensor_names import LOGITS

if TYPE_CHECKING:
    from ci.subjects.base import TraceRequest, TraceResult
    from ci.subjects.trace_files import TraceWriter


def run_forward(
    model: Any,
    request: TraceRequest,
    inputs: Inputs,
    feed: TeacherForcing | None,
    writer: TraceWriter | RowTraceWriter,
    load_seconds: float = 0.0,
) -> TraceResult:
    """Run the batch at once and write its trace; `feed` gives each block its input."""
    recorder = TraceRecorder(writer, inputs, DTYPES[request.dtype])
    hooks = ForwardHooks(model, recorder, capture_all=request.capture == "all", feed=feed)
    with measure_cost(request.device) as cost, hooks.installed():
        kwargs: dict[str, Any] = (
            {} if inputs.mask is None else {"attention_mask": inputs.mask, "position_ids": inputs.position_ids()}
        )
        if inputs.images is not None:
            kwargs |= inputs.images.to_arguments(DTYPES[request.dtype])
            if "output_vision_hidden_states" in inspect.signature(model.forward).parameters:
                # apriel2's code joins the vision tower's hidden states of several images, and fails without them
                kwargs |= {"output_vision_hidden_states": True, "output_hidden_states": True}
        if find_prediction_blocks(model):
            kwargs["return_all_prediction_heads"] = True
        logits = model(input_ids=inputs.ids, use_cache=False, **kwargs).logits
    seconds = cost.seconds - recorder.seconds
    record_heads(recorder, LOGITS, logits, copy=False)
    recorder.flush()
    expected = hooks.list_expected() if hooks.capture_all else ()
    written = set(recorder.written)
    return writer.finish(
        ran={**hooks.ran, "batch": "together"},
        dtype=request.dtype,
        device=request.device,
        seconds=seconds,
        load_seconds=load_seconds,
        peak_device_bytes=cost.peak_device_bytes,
        not_captured=tuple(name for name in expected if name not in written),
    )


def run_rows(model: Any, request: TraceRequest, inputs: Inputs, load_seconds: float) -> TraceResult:
    """Run each row alone and unpadded, and write one trace of the batch."""
    batch, length = inputs.ids.shape
    writer, feed = (
        BatchTraceWriter(Path(request.output), batch=batch, length=length),
        TeacherForcing.of_request(request),
    )
    results = []
    for row in range(batch):
        padding = inputs.count_padding(row)
        row_feed = feed and feed.select_row(row, padding)
        results.append(run_forward(model, request, inputs.select_row(row), row_feed, writer.row_writer(row, padding)))
    return writer.finish(
        ran={**results[0].ran, "batch": "row_by_row"},
        dtype=request.dtype,
        device=request.device,
        seconds=sum(result.seconds for result in results),
        load_seconds=load_seconds,
        peak_device_bytes=max(result.peak_device_bytes for result in results),
        not_captured=results[0].not_captured,
    )
