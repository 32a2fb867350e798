"""Why a training step is wrong: the rank, the collective or the parameter, from what the run left and from repeats."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ci.equivalence.adamw_oracle import compute_updates
from ci.equivalence.capture_signature import CapturedGroup, describe_captures, describe_larger_error
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.gradient_signature import (
    StepFacts,
    describe_balancing,
    describe_factor,
    describe_rank_parts,
    describe_rough_balancing,
    describe_shares,
    describe_uses,
    fit_shares,
)
from ci.equivalence.loss_signature import TokenLosses, describe_loss
from ci.equivalence.norm_signature import GradientSquares, describe_norm
from ci.equivalence.optimizer_signature import (
    ParameterUpdates,
    are_slices_swapped,
    find_lost_slices,
    find_optimizer_mistake,
    has_foreign_slices,
)
from ci.equivalence.training_compare import TrainingComparison
from ci.evidence import Measure
from ci.layouts import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.training import Disagreement

EMBEDDINGS_NAMES = ("embed_tokens.weight", "wte.weight")
COLUMN_CUT = ("o_proj.weight", "down_proj.weight", "w2.weight")
"""Matrices of which a tensor rank holds columns."""
NOT_CUT = ("norm.weight", "o_proj.bias", "down_proj.bias", ".gate.weight")
"""Parameters of which every tensor rank holds all: norms, biases after a sum, routers."""
LAYER = re.compile(r"\.layers\.(\d+)\.")
MOST_FITTED = 40
"""Wrong gradients that are taken apart: the first ones show what the others show too."""


@dataclass(frozen=True)
class TrainingFinding:
    """Finds the cause of one failed comparison. `captures` runs a step again and returns what each rank computed."""

    comparison: TrainingComparison
    layout: Layout
    measures: Sequence[Measure]
    parts: Path
    captures: Callable[[], CapturedGroup | None]

    def describe(self) -> str:
        """Return what is wrong in one line, in the order of the step; empty where no cause was found."""
        found = (self._describe_forward, self._describe_gradients, self._describe_norm, self._describe_updates)
        reasons = [reason for find in found if (reason := find())]
        if reasons:
            reasons += self._list_unexplained()
        return f"training step, layout {self.layout.name}: {'; '.join(reasons)}" if reasons else ""

    def _list_wrong(self, prefix: str = "") -> list[str]:
        return [m.tensor for m in self.measures if not m.passed and m.tensor.startswith(prefix)]

    def _wrong_names(self, kind: str, step: int = 1) -> list[str]:
        ending = f", step {step}"
        wrong = [name for name in self._list_wrong(f"{kind} of ") if name.endswith(ending)]
        return [name.removeprefix(f"{kind} of ").removesuffix(ending) for name in wrong]

    @cached_property
    def tokens(self) -> TokenLosses:
        """Hugging Face's token losses of the first step."""
        stored = load_file(self.parts / "tokens.safetensors")
        count = len(stored) // 2
        losses, counted = ([stored[f"{kind}.{i}"] for i in range(count)] for kind in ("loss", "counted"))
        return TokenLosses(losses, counted)

    @cached_property
    def facts(self) -> StepFacts:
        """The step's facts that give factors a meaning."""
        norms = [self._compute_norm(folder) for folder in self._list_documents("document")]
        limit = self.comparison.expected.request.optimizer.max_gradient_norm
        return StepFacts(self.layout, tuple(self.tokens.tokens), tuple(norms), limit)

    def _list_documents(self, kind: str) -> list[Path]:
        folder = self.parts / kind
        return sorted(folder.iterdir(), key=lambda path: int(path.name)) if folder.is_dir() else []

    def _compute_norm(self, folder: Path) -> float:
        opened = CheckpointTensors(folder)
        return math.sqrt(sum(float(opened.read(name).double().pow(2).sum()) for name in opened.files))

    def _describe_forward(self) -> str:
        """Describe a wrong loss: a wrong sum of right token losses, or the first wrong tensor of the forward pass."""
        wrong = next((m for m in self.measures if m.tensor == "loss, step 1" and not m.passed), None)
        if wrong is None:
            return ""
        if reason := describe_loss(self.comparison.run.result.losses[0], self.tokens, self.layout):
            return f"loss: {reason}"
        group = self.captures()
        if group is None:
            return ""
        cut = "its sums over the parts of the vocabulary, " if self.layout.tensor > 1 else ""
        right = f"every captured tensor of document 0 is right, the loss is wrong: {cut}its targets, mask or divisor"
        return f"forward pass: {describe_captures(group) or describe_larger_error(group, wrong.error) or right}"

    def _describe_gradients(self) -> str:
        """Describe the first step's wrong gradients, grouped by what they have in common."""
        wrong = self._wrong_names("gradient")
        reasons: dict[str, list[str]] = {}
        for name in wrong[:MOST_FITTED]:
            reasons.setdefault(self._describe_gradient(name), []).append(name)
        if not wrong:
            return self._describe_stale()
        if set(reasons) == {""}:
            return ""
        known = {reason: names for reason, names in reasons.items() if reason}
        return "; ".join(_name_parameters(names, wrong, reason) for reason, names in list(known.items())[:2])

    def _list_unexplained(self) -> list[str]:
        """List wrong gradients without a cause, so that what is known of something else does not hide them."""
        wrong = self._wrong_names("gradient") if not self._describe_gradients() else []
        if not wrong:
            return []
        error = next(m.error for m in self.measures if m.tensor == f"gradient of {wrong[0]}, step 1")
        more = f" and of {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return [f"gradient of {wrong[0]}{more} is wrong too (relative {error:.2g})"]

    def _describe_gradient(self, name: str) -> str:
        actual, expected = self.comparison.run.open_gradients(1).read(name), self._read_expected(name)
        if actual.shape != expected.shape:
            return f"it has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        return (
            describe_factor(actual, expected, self.layout)
            or self._describe_uses(name, actual)
            or self._describe_documents(name, actual)
            or describe_rank_parts(actual, expected, self.layout.tensor)
        )

    def _describe_uses(self, name: str, actual: Tensor) -> str:
        """Describe a gradient of tied embeddings by its two uses."""
        if not name.endswith(EMBEDDINGS_NAMES) or not (self.parts / "lookup").is_dir():
            return ""
        shares = fit_shares(actual, [CheckpointTensors(self.parts / use).read(name) for use in ("lookup", "head")])
        return describe_uses(*shares) if shares else ""

    def _describe_documents(self, name: str, actual: Tensor) -> str:
        """Describe a gradient by its documents, and by the balancing loss where that was asked for."""
        documents = [CheckpointTensors(folder).read(name) for folder in self._list_documents("document")]
        balancing = [CheckpointTensors(folder).read(name).double() for folder in self._list_documents("balancing")]
        extra = [sum(balancing[1:], balancing[0])] if balancing and any(bool(b.any()) for b in balancing) else []
        shares = fit_shares(actual, [*documents, *extra])
        if shares is None:
            error = actual.double() - self._read_expected(name).double()
            return describe_rough_balancing(error, extra[0], len(documents)) if extra else ""
        reason = describe_shares(shares[: len(documents)], self.facts)
        return reason or (describe_balancing(shares[-1], len(documents)) if extra else "")

    def _describe_stale(self) -> str:
        """Describe gradients that are right in the first step and wrong in the second."""
        wrong = self._wrong_names("gradient", 2)
        if not wrong or self._wrong_names("update"):
            return ""
        name = wrong[0]
        actual, first = (self.comparison.run.open_gradients(step).read(name).double() for step in (2, 1))
        expected = self.comparison.expected.open_gradients(2).read(name)
        shares = fit_shares(actual, [expected, first])
        if shares and abs(shares[1]) > 0.02:
            return (
                f"{_name_parameters(wrong, wrong, '')}the first step's gradient is still in the second's: not cleared"
            )
        return ""

    def _read_expected(self, name: str) -> Tensor:
        return self.comparison.expected.open_gradients(1).read(name)

    def _describe_norm(self) -> str:
        """Describe a reported norm that is not the norm of the subject's own gradients."""
        if "norm of its own gradients, step 1" not in self._list_wrong():
            return ""
        norm = self.comparison.run.result.gradient_norms[0] or 0.0
        reason = describe_norm(norm, self._sum_squares(), self.layout)
        return f"gradient norm: {reason or 'it is not the norm of the gradients that came back'}"

    def _sum_squares(self) -> GradientSquares:
        opened, ranks = self.comparison.run.open_gradients(1), self.layout.tensor
        total, whole, tied, parts, stages = 0.0, 0.0, 0.0, [0.0] * ranks, [0.0] * self.layout.pipeline
        for name in self.comparison.expected.names:
            gradient = opened.read(name).double().pow(2)
            size = float(gradient.sum())
            total, tied = total + size, tied + (size if name.endswith(EMBEDDINGS_NAMES) else 0.0)
            stages[self._find_stage(name)] += size
            if name.endswith(NOT_CUT):
                whole += size
                continue
            axis = 1 if name.endswith(COLUMN_CUT) else 0
            for rank, part in enumerate(gradient.tensor_split(ranks, axis)):
                parts[rank] += float(part.sum())
        limit = self.comparison.expected.request.optimizer.max_gradient_norm
        return GradientSquares(total, whole, limit, tied, tuple(part + whole for part in parts), tuple(stages))

    def _find_stage(self, name: str) -> int:
        """Return the stage of a parameter, where consecutive layers are divided as equally as can be."""
        layers = [int(found[1]) for n in self.comparison.expected.names if (found := LAYER.search(n))]
        found, stages = LAYER.search(name), self.layout.pipeline
        if found is None:
            return 0 if name.endswith(EMBEDDINGS_NAMES) else stages - 1
        per_stage = -(-(max(layers) + 1) // stages)
        return int(found[1]) // per_stage

    def _describe_updates(self) -> str:
        """Describe updates that AdamW does not give on the subject's own gradients."""
        wrong = list(dict.fromkeys([*self._wrong_names("AdamW"), *self._wrong_names("AdamW", 2)]))
        if not wrong:
            return ""
        parameters = [self._read_updates(name) for name in wrong[:MOST_FITTED]]
        settings = self.comparison.expected.request.optimizer
        reason = find_optimizer_mistake(parameters, settings) or self._describe_slices(parameters)
        unknown = "it is not AdamW's on the subject's own gradients, and no known mistake gives it"
        return _name_parameters(wrong, wrong, reason or unknown, "update of ")

    def _read_updates(self, name: str) -> ParameterUpdates:
        norms = [self.comparison.compute_own_norm(step)[0] for step in self.comparison.steps]
        return ParameterUpdates(name, self.comparison.read_history(name, norms), self.comparison.read_updates(name))

    def _describe_slices(self, parameters: Sequence[ParameterUpdates]) -> str:
        settings = self.comparison.expected.request.optimizer
        for parameter in parameters:
            right = compute_updates(parameter.history, settings)[0]
            lost = find_lost_slices(parameter.updates[0], right, self.layout.data) if self.layout.data > 1 else []
            if lost:
                return f"the slice of data rank {', '.join(map(str, lost))} is not updated: its gather is missing"
            if self.layout.data > 1 and are_slices_swapped(
                parameter.updates[0], parameter.history, right, self.layout.data
            ):
                return "the slices of the data ranks are gathered in the wrong order"
            if self.layout.data > 1 and has_foreign_slices(parameter, settings, self.layout.data):
                return "each data rank updates its slice with another rank's slice of the gradient"
        return ""


def describe_disagreement(disagreements: Sequence[Disagreement], ranks: Sequence[object]) -> str:
    """Return which copies differ, and over which group the sum that makes them equal is missing."""
    if not disagreements:
        return ""
    first = disagreements[0]
    axes = [axis for report in ranks for axis in _list_shared_axes(report, first.ranks)]
    group = f"their group is {axes[0]}" if axes else "they share no group"
    more = f", and {len(disagreements) - 1} more" if len(disagreements) > 1 else ""
    one, other = first.ranks
    return (
        f"{first.kind} of {first.tensor}: ranks {one} and {other} hold different copies (relative {first.error:.2g}, "
        f"step {first.step}){more}; {group}: a reduction over it is missing, or their data differ"
    )


def _list_shared_axes(report: object, ranks: tuple[int, int]) -> Iterator[str]:
    groups: Mapping[str, tuple[int, ...]] = getattr(report, "groups", {})
    yield from (axis for axis, members in groups.items() if set(ranks) <= set(members))


def _name_parameters(names: Sequence[str], wrong: Sequence[str], reason: str, kind: str = "gradient of ") -> str:
    more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
    everything = " (every wrong one)" if len(names) > 1 and len(names) == len(wrong) else ""
    return f"{kind}{names[0]}{more}{everything}: {reason}"
