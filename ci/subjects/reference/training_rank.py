"""What one rank of a training run does: load its part, run the steps, write what it holds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ci.errors import RequestError
from ci.layouts import LAYOUTS
from ci.subjects.forward import DTYPES, exact_arithmetic
from ci.subjects.images import find_image_problem, split_images, take_images
from ci.subjects.reference.adamw import AdamW
from ci.subjects.reference.attention import ATTENTION, ImplementationLog
from ci.subjects.reference.directories import Checkpoint, read_fast_llm
from ci.subjects.reference.moe import MOE
from ci.subjects.reference.parameter_shards import cut_parameter, find_stage
from ci.subjects.reference.rank_groups import AXES, RankGroups, RankPlace
from ci.subjects.reference.trace import load_model
from ci.subjects.reference.training_checkpoint import cut_state, read_state, write_rank
from ci.subjects.reference.training_step import Document, RankTrainer, StepFigures, run_step
from ci.subjects.training import TrainRequest

if TYPE_CHECKING:
    from ci.subjects.rank_process import Rank

RESULT = "result.json"
CAPTURES = "captures.safetensors"
BACKEND = "gloo"


@dataclass
class RankRun:
    """One rank's run of a request; `directory` is where it writes its files."""

    request: TrainRequest
    groups: RankGroups
    directory: Path

    def run(self) -> None:
        """Run the request's steps and write gradients, weights, captures, state and figures."""
        self.directory.mkdir(parents=True)
        with exact_arithmetic():
            checkpoint = read_fast_llm(Path(self.request.checkpoint))
            trainer, optimizer = self._build(checkpoint)
            optimizer.prepare(trainer.parameters)
            documents = read_documents(Path(self.request.inputs))
            figures = [self._run_step(number, trainer, optimizer, documents) for number in range(self.request.steps)]
            write_rank(self.directory, trainer.parameters, optimizer)
        if trainer.captured:
            save_file({n: t.contiguous() for n, t in trainer.captured.items()}, self.directory / CAPTURES)
        result = {
            "figures": [asdict(f) for f in figures],
            "ran": dict(trainer.ran),
            **self._describe(trainer, optimizer),
        }
        (self.directory / RESULT).write_text(json.dumps(result), encoding="utf-8")

    def _build(self, checkpoint: Checkpoint) -> tuple[RankTrainer, AdamW]:
        request, place = self.request, self.groups.place
        stage, architecture = find_stage(place, checkpoint.architecture), checkpoint.architecture
        dtype, optimizer = DTYPES[request.dtype], AdamW(request.optimizer, self.groups)
        held = [p for p in checkpoint.parameters if stage.holds(p.name, tied=architecture.tied)]
        if request.resume:
            weights = cut_state(read_state(Path(request.resume), checkpoint), held, place, optimizer)
        else:
            full = load_model(checkpoint, find_master_dtype(dtype), "cpu").weights
            weights = {p.name: cut_parameter(p, full[p.name], place.tensor, place.layout.tensor) for p in held}
        trainer = RankTrainer(
            architecture=architecture,
            parameters={name: w.to(find_master_dtype(dtype)).requires_grad_() for name, w in weights.items()},
            stage=stage,
            groups=self.groups,
            dtype=dtype,
            attention=request.variant.get("attention", next(iter(ATTENTION))),
            moe=request.variant.get("moe", next(iter(MOE))),
            ran=ImplementationLog(),
            auxiliary_loss=request.auxiliary_loss,
            captured={} if request.capture else None,
        )
        return trainer, optimizer

    def _run_step(self, number: int, trainer: RankTrainer, optimizer: AdamW, documents: list[Document]) -> StepFigures:
        """Run one step over its documents, and write its gradients and the weights after it."""
        layout = self.groups.place.layout
        first = (self.request.resume_steps + number) * layout.documents
        mine = choose_documents(documents, first, self.groups.place)
        figures, gradients = run_step(trainer, optimizer, mine)
        tensors = {f"gradient/{name}": tensor for name, tensor in gradients.items()}
        tensors |= {f"weight/{name}": tensor.detach() for name, tensor in trainer.parameters.items()}
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, self.directory / name_step(number + 1))
        return figures

    def _describe(self, trainer: RankTrainer, optimizer: AdamW) -> dict[str, Any]:
        """Return the groups of more than one rank, and the local shapes; moments only where they are cut."""
        members = {axis: self.groups.place.list_members(axis) for axis in AXES}
        shapes = {name: list(tensor.shape) for name, tensor in trainer.parameters.items()}
        if optimizer.slices > 1:
            shapes |= {f"{name}/first": list(m.first.shape) for name, m in optimizer.moments.items()}
        return {"groups": {a: list(m) for a, m in members.items() if len(m) > 1}, "shapes": shapes}


def find_master_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of parameters, gradients and moments for a computation: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def name_step(number: int) -> str:
    """Return the name of a step's file in a rank's directory; steps count from 1."""
    return f"step-{number}.safetensors"


def choose_documents(documents: list[Document], first: int, place: RankPlace) -> list[Document]:
    """Return the documents of a rank in the step that begins with document `first`."""
    return [documents[first + index] for index in place.list_documents()]


def read_documents(path: Path) -> list[Document]:
    """Read the inputs of a TrainRequest; each document without its padding. Raises RequestError."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise RequestError(f"inputs {path} cannot be read: {problem}") from None
    if "input_ids" not in tensors or "lengths" not in tensors:
        raise RequestError(f"inputs {path}: input_ids and lengths are needed")
    ids, lengths = tensors["input_ids"], tensors["lengths"].tolist()
    mask = tensors.get("loss_mask", torch.ones(ids.shape[0], ids.shape[1] - 1, dtype=torch.int64))
    if len(lengths) != len(ids) or mask.shape != (ids.shape[0], ids.shape[1] - 1) or min(lengths) < 2:
        raise RequestError(f"inputs {path}: lengths of at least 2 and a loss_mask (documents, T - 1) are needed")
    images = take_images(tensors)
    if images is not None and (wrong := find_image_problem(images, len(ids))):
        raise RequestError(f"inputs {path}: {wrong}")
    rows = zip(ids, lengths, mask, split_images(images, len(ids)), strict=True)
    return [Document(row[:n], counted[: n - 1], seen) for row, n, counted, seen in rows]


def run_training_rank(rank: Rank, request: TrainRequest, directory: Path) -> None:
    """Run one rank of a request in its own process, together with the layout's others."""
    limit = timedelta(seconds=rank.collective_seconds)
    dist.init_process_group(BACKEND, init_method=rank.store, rank=rank.number, world_size=rank.count, timeout=limit)
    run_place(rank.number, request, directory)
    dist.barrier()
    dist.destroy_process_group()


def run_place(rank: int, request: TrainRequest, directory: Path) -> None:
    """Run a rank's part of a request; it writes to its own directory below `directory`."""
    groups = RankGroups.create(RankPlace(LAYOUTS[request.layout], rank))
    RankRun(request, groups, directory / str(rank)).run()
