"""Trains: starts a layout's ranks, lets each run its steps, and puts together what they wrote."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ci.errors import RequestError, UnsupportedError
from ci.layouts import LAYOUT_AXIS, LAYOUTS, Layout
from ci.subjects.forward import measure_cost
from ci.subjects.ranks import run_ranks
from ci.subjects.reference.config_json_write import write_config
from ci.subjects.reference.directories import Checkpoint, read_fast_llm, write_huggingface
from ci.subjects.reference.offer import LAYOUTS_OFFERED
from ci.subjects.reference.parameter_shards import check_layout
from ci.subjects.reference.tensor_files import PlannedTensor
from ci.subjects.reference.trace import list_variants
from ci.subjects.reference.training_checkpoint import STATE, collect_checkpoint
from ci.subjects.reference.training_gather import find_disagreements, join_ranks, split_to_huggingface
from ci.subjects.reference.training_rank import BACKEND, CAPTURES, RESULT, name_step, run_place, run_training_rank
from ci.subjects.training import Disagreement, RankReport, TrainRequest, TrainResult

if TYPE_CHECKING:
    from torch import Tensor

DEVICE = "cpu"
"""Where every rank runs: its groups speak gloo."""


def run_training(request: TrainRequest) -> TrainResult:
    """Run a request's steps in its layout.

    Raises UnsupportedError for what is not offered, SubjectError, RequestError.
    """
    checkpoint, layout = read_fast_llm(Path(request.checkpoint), request.checkpoint_format), find_layout(request)
    check_request(request, checkpoint, layout)
    output = Path(request.output)
    if output.exists():
        raise RequestError(f"{output} exists; name a directory that does not")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=output.parent) as scratch, measure_cost(DEVICE) as cost:
        directories = [Path(scratch, str(rank)) for rank in range(layout.ranks)]
        start_ranks(request, layout, Path(scratch))
        return _Gathering(request, checkpoint, layout, directories).finish(cost.seconds)


def start_ranks(request: TrainRequest, layout: Layout, directory: Path) -> None:
    """Run every rank; a layout of one runs in this process.

    Autograd's threads for a GPU do not survive a fork: once this process used one, ranks are new interpreters.
    """
    if layout.ranks == 1:
        run_place(0, request, directory)
    else:
        used_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        run_ranks(run_training_rank, layout.ranks, request, directory, seconds=request.seconds, fork=not used_gpu)


def find_layout(request: TrainRequest) -> Layout:
    """Return the request's layout. Raises UnsupportedError for one that the reference does not offer."""
    if request.layout not in LAYOUTS_OFFERED:
        raise UnsupportedError(
            f"reference: layout {request.layout} is not offered; it offers {', '.join(LAYOUTS_OFFERED)}"
        )
    return LAYOUTS[request.layout]


def check_request(request: TrainRequest, checkpoint: Checkpoint, layout: Layout) -> None:
    """Raise UnsupportedError for a layout that the model cannot have, and for what the reference cannot do."""
    check_layout(checkpoint.architecture, layout)
    if request.recompute != "none":
        raise UnsupportedError(f"reference: recomputation {request.recompute!r} is not offered")
    if request.dtype == "float16":
        raise UnsupportedError("reference: training in float16 needs a loss scale, which is not offered")
    offered = list_variants(checkpoint)
    for axis, name in request.variant.items():
        if axis != LAYOUT_AXIS and name not in offered.get(axis, ()):
            raise UnsupportedError(f"reference, {request.checkpoint}: this model has no variant {axis}={name}")


class _Gathering:
    """Puts together what the ranks of a request wrote."""

    def __init__(self, request: TrainRequest, checkpoint: Checkpoint, layout: Layout, ranks: list[Path]) -> None:
        self.request, self.checkpoint, self.layout, self.ranks = request, checkpoint, layout, ranks
        self.output, self.parameters = Path(request.output), checkpoint.parameters
        self.results = [json.loads((rank / RESULT).read_bytes()) for rank in ranks]

    def finish(self, seconds: float) -> TrainResult:
        """Write the output directory and return the result."""
        self.output.mkdir()
        disagreements = [d for step in range(1, self.request.steps + 1) for d in self._write_step(step)]
        if self.request.save:
            self._save()
        if self.request.export:
            self._export()
        if self.request.capture:
            self._copy_captures()
        figures = self.results[0]["figures"]
        return TrainResult(
            losses=tuple(step["loss"] for step in figures),
            auxiliary_losses=tuple(_name_balancing(step["balancing"]) for step in figures),
            gradient_norms=tuple(step["gradient_norm"] for step in figures),
            ranks=tuple(map(_report_rank, range(len(self.ranks)), self.results)),
            backend=BACKEND if len(self.ranks) > 1 else "",
            ran=self._describe_ran(),
            seconds=seconds,
            disagreements=tuple(disagreements),
        )

    def _write_step(self, step: int) -> list[Disagreement]:
        """Write a step's full gradients and weights; return the copies that disagree."""
        disagreements: list[Disagreement] = []
        for kind, folder in (("gradient", "gradients"), ("weight", "weights")):
            parts = [_read_kind(rank / name_step(step), kind) for rank in self.ranks]
            place = self.parameters, parts, self.layout, self.checkpoint.architecture
            target = self.output / f"step-{step}" / folder
            target.mkdir(parents=True)
            save_file(split_to_huggingface(self.parameters, join_ranks(*place)), target / "model.safetensors")
            disagreements += find_disagreements(*place, kind, step)  # type: ignore[arg-type]
        return disagreements

    def _save(self) -> None:
        collect_checkpoint(self.ranks, self.output / "checkpoint", self.layout)

    def _export(self) -> None:
        """Write a Hugging Face directory in float32 of the weights in the ranks' states."""
        parts = [_read_kind(rank / STATE, "weights") for rank in self.ranks]
        joined = join_ranks(self.parameters, parts, self.layout, self.checkpoint.architecture)
        tensors = split_to_huggingface(self.parameters, joined)
        config = write_config(
            self.checkpoint.architecture, self.request.checkpoint_format, "float32", self.checkpoint.original
        )
        planned = [PlannedTensor(name, tuple(t.shape), partial(_yield_whole, t)) for name, t in tensors.items()]
        (self.output / "export").mkdir()
        write_huggingface(self.output / "export", config, planned, "F32")

    def _copy_captures(self) -> None:
        (self.output / "captures").mkdir()
        for rank, directory in enumerate(self.ranks):
            if (directory / CAPTURES).is_file():
                (directory / CAPTURES).rename(self.output / "captures" / f"rank-{rank}.safetensors")

    def _describe_ran(self) -> dict[str, str]:
        """Return what ran on every axis; pipeline stages may see different ones."""
        ran: dict[str, str] = {}
        for result in self.results:
            ran |= result["ran"]
        return {
            **ran,
            LAYOUT_AXIS: self.layout.name,
            "recompute": "none",
            "dtype": self.request.dtype,
            "device": DEVICE,
        }


def _read_kind(file: Path, kind: str) -> dict[str, Tensor]:
    tensors = load_file(file)
    return {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{kind}/")}


def _report_rank(rank: int, result: dict[str, Any]) -> RankReport:
    groups = {axis: tuple(members) for axis, members in result["groups"].items()}
    return RankReport(rank, groups, DEVICE, {name: tuple(shape) for name, shape in result["shapes"].items()})


def _name_balancing(value: float | None) -> dict[str, float]:
    return {} if value is None else {"load_balancing_loss": value}


def _yield_whole(tensor: Tensor) -> list[Tensor]:
    return [tensor]
