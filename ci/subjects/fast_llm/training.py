"""Trains with Fast-LLM in a parallel layout: starts the ranks, and puts together what they wrote."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError, UnsupportedError
from ci.layouts import LAYOUT_AXIS
from ci.subjects.fast_llm.config import find_format, find_model_class, read_model_config
from ci.subjects.fast_llm.errors import translate_errors
from ci.subjects.fast_llm.gradients import LOSS
from ci.subjects.fast_llm.layout_config import find_backend, find_layout
from ci.subjects.fast_llm.training_rank import name_step_file, run_training_rank
from ci.subjects.ranks import run_ranks
from ci.subjects.training import TrainResult

if TYPE_CHECKING:
    from torch import Tensor

    from ci.layouts import Layout
    from ci.subjects.fast_llm.training_rank import RankResult
    from ci.subjects.training import TrainRequest


def run_training(request: TrainRequest) -> TrainResult:
    """Run a request's steps. Raises UnsupportedError for a layout that Fast-LLM or this machine does not have."""
    layout, output = find_layout(request.layout), Path(request.output)
    check_devices(layout, request.device)
    if output.exists():
        raise RequestError(f"training output {output} exists; name a directory that does not")
    output.mkdir(parents=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=output.parent) as scratch:
        results: list[RankResult] = run_ranks(
            run_training_rank,
            layout.ranks,
            request,
            Path(scratch),
            seconds=request.seconds,
            fork=request.device == "cpu",
        )
        with translate_errors(f"gradients of {request.checkpoint} under Hugging Face's names"):
            _write_steps(request, layout, Path(scratch))
    return _make_result(request, layout, results, time.perf_counter() - started)


def check_devices(layout: Layout, device: str) -> None:
    """Raise UnsupportedError where there are fewer GPUs than the layout has ranks."""
    if device == "cpu":
        return
    import torch

    if (there := torch.cuda.device_count()) < layout.ranks:
        raise UnsupportedError(f"layout {layout.name} needs {layout.ranks} GPUs; this machine has {there}")


def _write_steps(request: TrainRequest, layout: Layout, scratch: Path) -> None:
    """Write each step's gradients and weights under Hugging Face's names."""
    from safetensors.torch import save_file

    convert = _make_converter(request)
    for step in range(1, request.steps + 1):
        merged = _merge_stages(scratch, step, layout)
        for kind, folder in (("gradient", "gradients"), ("weight", "weights")):
            target = Path(request.output) / f"step-{step}" / folder
            target.mkdir(parents=True)
            chosen = {name.partition("/")[2]: t for name, t in merged.items() if name.startswith(f"{kind}/")}
            save_file(convert(chosen), target / "model.safetensors")


def _merge_stages(scratch: Path, step: int, layout: Layout) -> dict[str, Tensor]:
    """Merge what the first rank of each pipeline stage wrote; their names are disjoint."""
    from safetensors.torch import load_file

    merged: dict[str, Tensor] = {}
    for rank in range(layout.ranks):
        if (file := name_step_file(scratch, step, rank)).is_file():
            part = load_file(file)
            if twice := merged.keys() & part.keys():
                raise ValueError(f"two pipeline stages hold {min(twice)}")
            merged |= part
    return merged


def _make_converter(request: TrainRequest) -> Any:
    """Return a function that converts full tensors by the exporters of the checkpoint format."""
    config = read_model_config(Path(request.checkpoint)).to_copy({("distributed", "use_cuda"): False})
    format_ = find_format(find_model_class(request.model_config), request.checkpoint_format)
    handler = format_.get_handler_class()(config.get_model_class()(config, verbose=False))

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        converted = handler._convert_state_dict(dict(state), True)
        return {name: tensor[:].detach().contiguous().clone() for name, tensor in converted.items()}

    return convert


def _make_result(request: TrainRequest, layout: Layout, results: list[RankResult], seconds: float) -> TrainResult:
    """Put the ranks' results together; they agree on the losses, and each saw the blocks of its own stages."""
    first = results[0]
    ran: dict[str, str] = {}
    for result in results:
        ran |= result.ran
    return TrainResult(
        losses=tuple(losses[LOSS] for losses in first.losses),
        auxiliary_losses=tuple({n: loss for n, loss in losses.items() if n != LOSS} for losses in first.losses),
        gradient_norms=first.gradient_norms,
        ranks=tuple(result.report for result in results),
        backend=find_backend(request.device) if layout.ranks > 1 else "",
        ran={**ran, LAYOUT_AXIS: layout.name, "recompute": request.recompute, "dtype": request.dtype},
        seconds=seconds,
        disagreements=tuple(each for result in results for each in result.disagreements),
    )
