"""One rank of a training run of Fast-LLM: its own model, schedule, runner and optimizer, as its trainer sets them up.

Each rank writes what it alone can: its part of the checkpoint and of the export, and, where it is the first rank of its
pipeline stage, full gradients and weights under Fast-LLM's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ci.layouts import Layout
from ci.subjects.fast_llm.config import choose_compiler, compile_stance, make_variant_updates, read_model_config
from ci.subjects.fast_llm.documents import get_preprocessing, make_batch, make_document
from ci.subjects.fast_llm.errors import translate_errors
from ci.subjects.fast_llm.gradients import LOSS, choose_mixers, make_trace_request, sum_losses
from ci.subjects.fast_llm.layout_config import (
    find_layout,
    make_layout_updates,
    make_training_updates,
    round_up_predictions,
)
from ci.subjects.fast_llm.layout_proof import describe_rank, find_disagreements
from ci.subjects.fast_llm.rank_checkpoint import load_state, make_optimizer, write_checkpoints
from ci.subjects.fast_llm.rank_model import build_model, is_absent, is_writer, open_process_groups
from ci.subjects.fast_llm.schedule import ScheduledModel, make_schedule_config
from ci.subjects.fast_llm.state import GRADIENTS, WEIGHTS, gather
from ci.subjects.rank_process import Rank
from ci.subjects.training import Disagreement, RankReport, TrainRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.subjects.base import TraceRequest
    from ci.subjects.reference.training_step import Document


@dataclass(frozen=True)
class RankResult:
    """What a rank knows at the end: the same figures on all, its own report, and copies that differ."""

    losses: tuple[dict[str, float], ...]
    gradient_norms: tuple[float, ...]
    report: RankReport
    ran: dict[str, str]
    disagreements: tuple[Disagreement, ...]


def run_training_rank(rank: Rank, request: TrainRequest, directory: Path) -> RankResult:
    """Run one rank of a request; its gradients and weights by step go to `directory`."""
    from ci.subjects.forward import exact_arithmetic

    variant_request = make_trace_request(request)
    with (
        translate_errors(f"training {request.checkpoint} in layout {request.layout}"),
        exact_arithmetic(),
        compile_stance(choose_compiler(variant_request)),
        open_process_groups(rank, request.device),
    ):
        return _TrainingRun(rank, request, directory, find_layout(request.layout)).run(variant_request)


@dataclass
class GradientRecorder:
    """Stands between Fast-LLM's runner and its optimizer: gradients are reduced there, but not yet clipped."""

    optimizer: Any
    record: Callable[[], None]

    @property
    def grad_scale(self) -> float:
        """The factor of the loss."""
        return float(self.optimizer.grad_scale)

    def step(self, metrics: dict[str, Any] | None = None) -> bool:
        """Record, then update."""
        self.record()
        return bool(self.optimizer.step(metrics))


@dataclass
class _TrainingRun:
    rank: Rank
    request: TrainRequest
    directory: Path
    layout: Layout
    disagreements: list[Disagreement] = field(default_factory=list)
    _gradients: dict[str, Tensor] = field(default_factory=dict)
    _step: int = 0

    def run(self, variant_request: TraceRequest) -> RankResult:
        """Load, run each step, save and export."""
        from fast_llm.engine.multi_stage.config import StageMode

        from ci.subjects.fast_llm.hooks import read_implementations

        request = self.request
        updates = self._make_updates(variant_request)
        model = build_model(
            self.layout, updates, Path(request.checkpoint), mode=StageMode.training, optimizer_states=True
        )
        optimizer = make_optimizer(model, request.optimizer)
        completed = load_state(model, optimizer, request)
        figures = self._run_steps(model, optimizer, completed)
        write_checkpoints(model, optimizer, request, completed + request.steps)
        blocks = [block for block in model.base_model.decoder if not is_absent(block)]
        return RankResult(
            losses=tuple(losses for losses, _ in figures),
            gradient_norms=tuple(norm for _, norm in figures),
            report=describe_rank(self.rank.number, model),
            ran={**read_implementations(blocks), "compile": choose_compiler(variant_request)},
            disagreements=tuple(self.disagreements),
        )

    def _make_updates(self, variant_request: TraceRequest) -> dict[tuple[str, ...], Any]:
        request, config = self.request, read_model_config(Path(self.request.checkpoint))
        return {
            **make_layout_updates(self.layout, self.rank, request.device),
            **make_training_updates(config, request.auxiliary_loss, request.recompute),
            **make_variant_updates(variant_request, config),
            **choose_mixers(config, request.variant.get("mixer")),
            ("distributed", "compute_dtype"): request.dtype,
        }

    def _run_steps(self, model: Any, optimizer: Any, completed: int) -> list[tuple[dict[str, float], float]]:
        """Return losses and gradient norm of each step."""
        from ci.subjects.reference.training_rank import read_documents

        documents, count = read_documents(Path(self.request.inputs)), self.layout.documents
        preprocessing = get_preprocessing(model, self.layout.micro_sequences)
        # Padding for each head at least: the last tokens have no target, and are inputs all the same as elsewhere.
        length = round_up_predictions(max(len(document.ids) for document in documents), self.layout)
        recorder = GradientRecorder(optimizer, lambda: self._keep_gradients(model, optimizer))
        runner = ScheduledModel.prepare(model, make_schedule_config(self.layout), preprocessing, length, recorder)
        figures = []
        for step in range(self.request.steps):
            self._step = step + 1
            first = (self.request.resume_steps + step) * count
            batches = make_batches(documents[first : first + count], model, length + preprocessing.num_labels)
            figures.append(self._run_step(runner, batches, completed + self._step))
            self._write_step(model)
        return figures

    def _run_step(self, runner: ScheduledModel, batches: list[Any], iteration: int) -> tuple[dict[str, float], float]:
        inputs = [batch.get_model_inputs(runner.preprocessing) for batch in batches]
        captured = self._ask_for_hidden_states(inputs)
        losses, gradient_norm = runner.run_training_step(inputs, iteration)
        if captured is not None:
            self._write_captures(runner.model, captured, batches[0].unpadded_length)
        return _add_heads(losses), gradient_norm

    def _ask_for_hidden_states(self, inputs: list[list[Any]]) -> Any:
        """Make the first step's first document record its hidden states, unless its tokens are cut."""
        whole = not self.layout.sequence_tensor and self.layout.sequence_data == self.layout.micro_sequences == 1
        if not (self.request.capture and self._step == 1 and whole):
            return None
        inputs[0][0].output_hidden_states.add(re.compile(".*"))
        return inputs[0][0]

    def _write_captures(self, model: Any, captured: Any, length: int) -> None:
        """Write what this rank held of each tensor (1, T, …)."""
        from safetensors.torch import save_file

        from ci.subjects.fast_llm.hidden_states import name_hidden_states, sort_routing

        names = name_hidden_states(model.base_model, everything=True)
        states = {
            names[name]: [tensor.detach()] for name, (_, tensor) in captured.hidden_states.items() if name in names
        }
        (directory := Path(self.request.output) / "captures").mkdir(exist_ok=True)
        tensors = {
            name: tensor.cpu()[None, :length].contiguous().clone() for name, (tensor,) in sort_routing(states).items()
        }
        save_file(tensors, directory / f"rank-{self.rank.number}.safetensors")

    def _keep_gradients(self, model: Any, optimizer: Any) -> None:
        """Gather the gradients; only the first rank of a pipeline stage keeps them."""
        gradients = gather(model, GRADIENTS)
        self._note_disagreements(model, gradients, "gradient")
        scale = optimizer.grad_scale
        self._gradients = {name: tensor / scale for name, tensor in gradients.items()} if is_writer(model) else {}

    def _note_disagreements(self, model: Any, tensors: dict[str, Tensor], kind: str) -> None:
        self.disagreements += find_disagreements(model, tensors, kind, self._step, self.rank.number)

    def _write_step(self, model: Any) -> None:
        from safetensors.torch import save_file

        weights = gather(model, WEIGHTS)
        self._note_disagreements(model, weights, "weight")
        if is_writer(model):
            tensors = {f"gradient/{name}": tensor for name, tensor in self._gradients.items()}
            tensors |= {f"weight/{name}": tensor for name, tensor in weights.items()}
            save_file(tensors, name_step_file(self.directory, self._step, self.rank.number))
        self._gradients = {}


def make_batches(documents: Sequence[Document], model: Any, size: int) -> list[Any]:
    """Return the micro-batches of this rank: one document each, padded to `size` tokens as Fast-LLM pads."""
    distributed, base = model.config.distributed, model.config.base_model
    mine = documents[distributed.batch_data_rank :: distributed.batch_data_parallel]
    return [make_batch([make_document(base, one.ids, one.images, one.counted)], size) for one in mine]


def _add_heads(losses: dict[str, float]) -> dict[str, float]:
    """Return the losses with those of all prediction heads in one: each further one has its distance in its name."""
    others = {name: loss for name, loss in losses.items() if not name.startswith(f"{LOSS}_")}
    return {**others, LOSS: sum_losses(losses)}


def name_step_file(directory: Path, step: int, rank: int) -> Path:
    """Return the path of what a rank wrote after a step."""
    return directory / f"step-{step}.rank-{rank}.safetensors"
