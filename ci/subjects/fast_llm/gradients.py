"""Computes Fast-LLM's gradients under Hugging Face's names: one step of its own schedule, without an optimizer."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ci.subjects.base import GradientRequest, GradientResult, TraceRequest
from ci.subjects.fast_llm.config import (
    choose_compiler,
    find_format,
    find_model_class,
    list_blocks,
    make_variant_updates,
    read_model_config,
)
from ci.subjects.fast_llm.documents import get_preprocessing, make_batch, make_document
from ci.subjects.fast_llm.layout_config import make_training_updates
from ci.subjects.fast_llm.schedule import ScheduledModel
from ci.subjects.fast_llm.state import GRADIENTS, gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ci.subjects.forward import Inputs
    from ci.subjects.training import TrainRequest

LOSS = "lm_head_loss"
MICRO_BATCHES = 2
"""One would not show gradients that are overwritten where they should accumulate (Fast-LLM's #551)."""


def run_gradients(request: GradientRequest) -> GradientResult:
    """Load in training mode, run one step, and export the gradients as weights are exported."""
    from safetensors.torch import save_file

    from ci.subjects.forward import measure_cost, read_inputs

    variant_request = make_trace_request(request)
    model = _load(request, variant_request)
    with measure_cost(request.device) as cost:
        losses = _run_step(model, read_inputs(Path(request.inputs)))
    started = time.perf_counter()
    gradients = convert_state(model, gather(model, GRADIENTS), request)
    Path(request.output).mkdir(parents=True)
    save_file(gradients, Path(request.output) / "model.safetensors")
    seconds = cost.seconds + time.perf_counter() - started
    return GradientResult(sum_losses(losses), ran={"compile": choose_compiler(variant_request)}, seconds=seconds)


def sum_losses(losses: dict[str, float]) -> float:
    """Return the sum over prediction heads: each further one has its distance at the end of the name."""
    return sum(float(value) for name, value in losses.items() if name == LOSS or name.startswith(f"{LOSS}_"))


def make_trace_request(request: GradientRequest | TrainRequest) -> TraceRequest:
    """Return a TraceRequest with the fields that decide about variants."""
    return TraceRequest(
        request.checkpoint, request.inputs, request.output, request.dtype, request.device, request.variant
    )


def _load(request: GradientRequest, variant_request: TraceRequest) -> Any:
    from fast_llm.engine.checkpoint.config import CheckpointLoadConfig, FastLLMCheckpointFormat
    from fast_llm.engine.multi_stage.config import StageMode

    path = Path(request.checkpoint)
    config = read_model_config(path)
    updates = {
        ("distributed", "use_cuda"): request.device != "cpu",
        ("distributed", "compute_dtype"): request.dtype,
        ("multi_stage", "num_grad_buffers"): count_gradient_buffers(config),
        **make_training_updates(
            config, 0.0, "none"
        ),  # the balancing loss is a choice of training, no part of the model
        **choose_mixers(config, request.variant.get("mixer")),
        **make_variant_updates(variant_request, config),
    }
    load = CheckpointLoadConfig(path=path, format=FastLLMCheckpointFormat)
    return type(config).get_model_class().from_pretrained(load, updates, mode=StageMode.training)


def count_gradient_buffers(config: Any) -> int:
    """Return a number of gradient buffers for which two of the model's stages share one.

    A stage is the embeddings, a block or the head; tied embeddings have a buffer of their own. The two that share
    accumulate over micro-batches by another path than the others, so that both paths run.
    """
    model = config.base_model
    return int(model.decoder.num_blocks) + (0 if model.tied_embedding_weight else 1)


def choose_mixers(config: Any, chosen: str | None) -> dict[tuple[str, ...], Any]:
    """Return config updates by which training always draws one of several mixers: the chosen one, else the main one."""
    updates: dict[tuple[str, ...], Any] = {}
    for path, block in list_blocks(config):
        if names := getattr(block.mixer, "mixers", None):
            main = chosen or block.mixer.main_mixer_name
            at = (*path, "mixer")
            updates[(*at, "sampling_strategy")] = "weighted"
            updates[(*at, "sampling_weights")] = {name: float(name == main) for name in names}
    return updates


def _run_step(model: Any, inputs: Inputs) -> dict[str, float]:
    """Run forward and backward over two micro-batches of one document; the gradients stay in the model.

    The document is the same, so that the mean over both is its own gradient: the second one has to be added to the
    first, with the weight of one half. The optimizer does nothing.
    """
    from fast_llm.engine.schedule.config import ScheduleConfig

    preprocessing, ids = get_preprocessing(model), inputs.ids[0]
    config = ScheduleConfig(depth_first_micro_batches=MICRO_BATCHES)
    no_optimizer = SimpleNamespace(grad_scale=1.0, step=lambda _metrics: False)
    runner = ScheduledModel.prepare(model, config, preprocessing, len(ids) - 1, no_optimizer)
    document = make_document(model.config.base_model, ids, inputs.images)
    prepared = [tuple(make_batch([document]).get_model_inputs(preprocessing)) for _ in range(MICRO_BATCHES)]
    every_input = [each for micro_batch in prepared for each in micro_batch]
    type(every_input[0]).share_batch_data(every_input, model.distributed)
    return runner.run_step(prepared)


def convert_state(model: Any, state: Mapping[str, Tensor], request: GradientRequest) -> dict[str, Tensor]:
    """Return full tensors, converted by the exporters of the checkpoint format."""
    handler = find_format(find_model_class(request.model_config), request.checkpoint_format).get_handler_class()(model)
    converted = handler._convert_state_dict(dict(state), True)
    return {name: tensor[:].detach().cpu().contiguous().clone() for name, tensor in converted.items()}
