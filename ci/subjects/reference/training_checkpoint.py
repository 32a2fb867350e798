"""The reference's training checkpoint: one file a rank, and an index that says what belongs where.

    training.json               layout, finished steps, and each file's tensors with their shapes
    rank-<r>.safetensors        weights/<name>, first/<name>, second/<name>: what rank r holds, and its moments

Any layout can go on from any other: the parts are put together and cut again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ci.errors import InfrastructureError, SubjectError
from ci.hub.strict_json import parse_object
from ci.layouts import LAYOUTS, Layout
from ci.subjects.reference.adamw import AdamW, Moments
from ci.subjects.reference.parameter_shards import cut_parameter
from ci.subjects.reference.rank_groups import RankPlace
from ci.subjects.reference.training_gather import join_ranks, join_slices, list_holders

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci.subjects.reference.directories import Checkpoint
    from ci.subjects.reference.parameter import Parameter

INDEX = "training.json"
STATE = "state.safetensors"
KINDS = ("weights", "first", "second")


@dataclass(frozen=True)
class TrainingState:
    """Full parameters and their moments by kind and name, and the number of finished steps."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    step: int


def name_file(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank-{rank}.safetensors"


def write_rank(directory: Path, parameters: Mapping[str, Tensor], optimizer: AdamW) -> None:
    """Write what a rank holds, and its moments."""
    tensors = {f"weights/{name}": tensor.detach() for name, tensor in parameters.items()}
    tensors |= {f"first/{name}": moments.first for name, moments in optimizer.moments.items()}
    tensors |= {f"second/{name}": moments.second for name, moments in optimizer.moments.items()}
    metadata = {"step": str(optimizer.step)}
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, directory / STATE, metadata)


def collect_checkpoint(ranks: Sequence[Path], directory: Path, layout: Layout) -> None:
    """Make a checkpoint of the directories that the ranks wrote, the index last."""
    directory.mkdir()
    with safe_open(ranks[0] / STATE, framework="pt") as file:
        step = int(file.metadata()["step"])
    for rank, source in enumerate(ranks):
        shutil.copyfile(source / STATE, directory / name_file(rank))
    files = {name_file(rank): list_shapes(load_file(source / STATE)) for rank, source in enumerate(ranks)}
    index = {"layout": layout.name, "step": step, "files": files}
    (directory / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def read_state(directory: Path, checkpoint: Checkpoint) -> TrainingState:
    """Read a training checkpoint of any layout.

    Raises SubjectError where a file, a tensor or a moment is missing, or the index is of another checkpoint.
    """
    layout, step, ranks = _read_files(directory)
    parts = {kind: [_select_kind(rank, kind) for rank in ranks] for kind in KINDS}
    _check_complete(directory, parts, layout, checkpoint)
    try:
        for kind in KINDS[1:]:
            parts[kind] = _join_slices(parts[kind], parts["weights"], layout)
        join = {kind: join_ranks(checkpoint.parameters, parts[kind], layout, checkpoint.architecture) for kind in KINDS}
    except RuntimeError as problem:  # torch's word for sizes that do not fit together
        raise SubjectError(f"{directory}: its files are not of layout {layout.name}: {problem}") from None
    _check_shapes(directory, join, layout, checkpoint)
    return TrainingState(join, step)


def cut_state(state: TrainingState, held: Sequence[Parameter], place: RankPlace, optimizer: AdamW) -> dict[str, Tensor]:
    """Return the weights of a rank, and give its optimizer the moments and the finished steps."""
    weights = {}
    for parameter in held:
        full = (state.tensors[kind][parameter.name] for kind in KINDS)
        weight, *moments = (cut_parameter(parameter, t, place.tensor, place.layout.tensor) for t in full)
        weights[parameter.name] = weight
        optimizer.moments[parameter.name] = Moments(*(optimizer.cut_state(moment).clone() for moment in moments))
    optimizer.step = state.step
    return weights


def list_shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Return the shape of each tensor by name."""
    return {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}


def _read_files(directory: Path) -> tuple[Layout, int, list[dict[str, Tensor]]]:
    """Read the index and the files that it names; each must hold exactly the tensors that the index says."""
    try:
        index = parse_object((directory / INDEX).read_bytes(), what=str(directory / INDEX))
        layout, step, files = LAYOUTS[index["layout"]], int(index["step"]), index["files"]
    except (OSError, KeyError, TypeError, ValueError, InfrastructureError) as problem:
        raise SubjectError(f"{directory}: {INDEX} cannot be used: {problem}") from None
    expected = [name_file(rank) for rank in range(layout.ranks)]
    if not isinstance(files, Mapping) or sorted(files) != sorted(expected):
        raise SubjectError(f"{directory / INDEX}: layout {layout.name} has {len(expected)} files, it names others")
    return layout, step, [_read_file(directory / name, files[name]) for name in expected]


def _read_file(path: Path, expected: Any) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise SubjectError(f"{path}: cannot be read: {problem}") from None
    shapes = list_shapes(tensors)
    for name in [*expected, *shapes]:
        if shapes.get(name) != expected.get(name):
            raise SubjectError(f"{path}: {name} has shape {shapes.get(name)}, {INDEX} says {expected.get(name)}")
    return tensors


def _select_kind(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{kind}/")}


def _check_complete(
    directory: Path, parts: Mapping[str, Sequence[Mapping[str, Tensor]]], layout: Layout, checkpoint: Checkpoint
) -> None:
    """Raise SubjectError for a rank that lacks a weight or a moment which its layout gives it."""
    for parameter in checkpoint.parameters:
        for place in list_holders(parameter.name, layout, checkpoint.architecture):
            missing = [kind for kind in KINDS if parameter.name not in parts[kind][place.rank]]
            if missing:
                where = directory / name_file(place.rank)
                raise SubjectError(f"{where}: {missing[0]}/{parameter.name} is missing for layout {layout.name}")


def _check_shapes(
    directory: Path, joined: Mapping[str, Mapping[str, Tensor]], layout: Layout, checkpoint: Checkpoint
) -> None:
    """Raise SubjectError for a whole of another shape: the files are of another layout than the index says."""
    for kind, tensors in joined.items():
        for parameter in checkpoint.parameters:
            shape = tuple(tensors[parameter.name].shape)
            if shape != parameter.shape:
                raise SubjectError(
                    f"{directory}: {kind}/{parameter.name} has shape {shape} as layout {layout.name}, expected "
                    f"{parameter.shape}: its files are of another layout"
                )


def _join_slices(
    moments: Sequence[dict[str, Tensor]], weights: Sequence[dict[str, Tensor]], layout: Layout
) -> list[dict[str, Tensor]]:
    """Return each rank's moments in the shape of its weights, where the layout cut them over data ranks."""
    if layout.zero_stage < 2 or layout.data == 1:
        return list(moments)
    joined = []
    for rank, held in enumerate(weights):
        members = RankPlace(layout, rank).list_members("data")
        joined.append({n: join_slices([moments[m][n] for m in members], w.shape) for n, w in held.items()})
    return joined
