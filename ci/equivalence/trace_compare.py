"""Compares two traces of the same inputs, tensor by tensor in the order of execution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.equivalence import expert_routing
from ci.equivalence.tensor_compare import (
    TensorDiff,
    TensorProblem,
    compare_distributions,
    compare_tensors,
    find_mismatch,
    find_non_finite,
)
from ci.evidence import LayerRouting
from ci.subjects.forward import DTYPES
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import CONTEXT, LOGITS, ROUTER_LOGITS, TOP_EXPERTS, is_vision, layer_of, list_mandatory_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    ReadTensor = Callable[[str], Tensor]


@dataclass(frozen=True)
class BatchSlice:
    """The part of a batch's trace that another trace covers: all of it, or one row without its padding."""

    row: int | None = None
    padding: int = 0

    def cut(self, tensor: Tensor) -> Tensor:
        """Cut (B, T, …) to (1, T - padding, …), or return it as it is."""
        return tensor if self.row is None else tensor[self.row : self.row + 1, self.padding :]


WHOLE_BATCH = BatchSlice()


@dataclass(frozen=True)
class TraceDiff:
    """The result of a comparison: tensors in execution order, the problems that ended it, routing by layer.

    `flip_gaps` maps `decoder.<i>.mlp.router_top_experts` to the largest gap of a flipped choice, relative to the
    token's norm of router logits. `predictions` compares the predicted distributions. `not_captured` are the tensors
    that one of the two sides says it cannot give.
    """

    tensors: dict[str, TensorDiff] = field(default_factory=dict)
    problems: tuple[TensorProblem, ...] = ()
    routing: tuple[LayerRouting, ...] = ()
    flip_gaps: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, float] = field(default_factory=dict)
    not_captured: tuple[str, ...] = ()


@dataclass
class TraceComparison:
    """One comparison of two traces. `keep` is bool (B, T), the real tokens; each side is cut to its slice.

    `images` is bool (B, T), the tokens of images; None without any. Only there have tensors of a vision tower values.

    Tensors are compared on `device`, one of each side at a time. `all_figures` and `compare_predictions` ask for more
    than a noise floor needs.

    `flip_gap_limit` gives the gap that rounding may flip, for the name of a choice and relative to the token's norm of
    router logits. Without it every flip counts as rounding, as between two implementations that are both right. Without
    `carry_flips` a flip excuses its own layer only: that is right where each block was fed the expected input.
    """

    actual: TraceReader
    expected: TraceReader
    keep: Tensor
    expected_slice: BatchSlice = WHOLE_BATCH
    actual_slice: BatchSlice = WHOLE_BATCH
    flip_gap_limit: Callable[[str], float] | None = None
    all_figures: bool = True
    carry_flips: bool = True
    compare_predictions: bool = False
    device: str = "cpu"
    images: Tensor | None = None
    _flipped: Tensor = field(init=False)
    _tensors: dict[str, TensorDiff] = field(default_factory=dict, init=False)
    _routing: list[LayerRouting] = field(default_factory=list, init=False)
    _flip_gaps: dict[str, float] = field(default_factory=dict, init=False)
    _predictions: dict[str, float] = field(default_factory=dict, init=False)

    def run(self) -> TraceDiff:
        """Compare the structure first, then tensor after tensor; a missing or malformed tensor ends the comparison."""
        if problems := tuple(self._find_structure_problems()):
            return TraceDiff(problems=problems)
        self.keep = self.keep.to(self.device)
        self.images = self.images.to(self.device) if self._sees and self.images is not None else None
        self._flipped = torch.zeros_like(self.keep)
        for scope in self.expected.scopes:
            if is_vision(scope) and not self._sees:
                continue
            if problem := self._compare_scope(scope):
                return self._build_diff(problem)
        return self._build_diff()

    def read_pair(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the actual and the expected tensor of a name, each cut to its slice, on `device`."""
        pair = (self.actual_slice.cut(self.actual.tensor(name)), self.expected_slice.cut(self.expected.tensor(name)))
        return pair[0].to(self.device), pair[1].to(self.device)

    def _compare_scope(self, scope: str) -> TensorProblem | None:
        """Compare the tensors of one scope, both files open; return the problem that ends the comparison."""
        if not self.carry_flips:
            self._flipped = torch.zeros_like(self.keep)
        names = [name for name in self.expected.names(scope) if name in self.actual]
        if not names:
            return None
        with (
            self._open_scope(self.actual, self.actual_slice, scope) as read_actual,
            self._open_scope(self.expected, self.expected_slice, scope) as read_expected,
        ):
            for name in names:
                if problem := self._compare_tensor(name, read_actual, read_expected):
                    return problem
        return None

    @contextmanager
    def _open_scope(self, trace: TraceReader, part: BatchSlice, scope: str) -> Iterator[ReadTensor]:
        with trace.open_scope(scope, device=self.device) as read:
            yield lambda name: part.cut(read(name))

    def _compare_tensor(self, name: str, read_actual: ReadTensor, read_expected: ReadTensor) -> TensorProblem | None:
        actual, expected = read_actual(name), read_expected(name)
        if problem := find_mismatch(name, actual, expected, dtype=DTYPES[self.actual.result.dtype]):
            return problem
        if name.endswith(TOP_EXPERTS):
            self._compare_routing(name, actual, expected, read_expected(name.replace(TOP_EXPERTS, ROUTER_LOGITS)))
            return None
        diff = self._measure_tensor(name, actual, expected)
        if not diff.finite and (problem := find_non_finite(name, actual, expected)):
            return problem
        self._tensors[name] = diff
        return None

    def _measure_tensor(self, name: str, actual: Tensor, expected: Tensor) -> TensorDiff:
        if name.endswith(f".{CONTEXT}") and not is_vision(name):
            self._flipped = expert_routing.spread_to_later_tokens(self._flipped)
        keep = self.keep & ~self._flipped
        if is_vision(name) and self.images is not None:
            keep = self.keep & self.images
        if self.compare_predictions and name == LOGITS:
            self._predictions = compare_distributions(actual, expected, keep)
        return compare_tensors(actual, expected, keep=keep, all_figures=self.all_figures)

    def _compare_routing(self, name: str, actual: Tensor, expected: Tensor, logits: Tensor) -> None:
        keep = self.keep & ~self._flipped
        flips = expert_routing.find_flips(actual, expected, logits, keep=keep)
        norm = torch.linalg.vector_norm(logits.double(), dim=-1)
        excused = flips.where
        if self.flip_gap_limit is not None:
            excused = expert_routing.find_rounding_flips(flips, self.flip_gap_limit(name) * norm)
        self._routing.append(expert_routing.summarize_routing(layer_of(name) or 0, flips, excused, keep=keep))
        relative = (flips.gap / norm.clamp(min=torch.finfo(torch.float64).tiny))[keep]
        self._flip_gaps[name] = float(relative.max()) if relative.numel() else 0.0
        self._flipped = self._flipped | excused

    @property
    def _sees(self) -> bool:
        """Whether the compared part has an image."""
        return self.images is not None and bool(self.images.any())

    def _find_structure_problems(self) -> Iterator[TensorProblem]:
        """Yield missing tensors that were not declared so, and unknown blocks.

        A subject that captures nothing of its vision tower says so by that; the verdict lists what was not compared.
        """
        always = list_mandatory_tensors(scope for scope in self.expected.scopes if not is_vision(scope))
        declared = self.actual.result.not_captured
        unseen = not self._sees or not _has_vision(self.actual)
        for name in self.expected:
            if name in self.actual or (is_vision(name) and unseen):
                continue
            if name in always or name not in declared:
                yield TensorProblem("missing_tensor", name, f"{name} is missing from the subject's trace")
        lacks_tower = any(is_vision(name) for name in self.expected.result.not_captured)
        for scope in self.actual.scopes:
            if scope not in self.expected.scopes and not (is_vision(scope) and lacks_tower):
                message = f"{scope} is in the subject's trace, the reference has none"
                yield TensorProblem("unexpected_tensor", scope, message)

    def _build_diff(self, *problems: TensorProblem) -> TraceDiff:
        sides = (self.expected.result, self.actual.result)
        missing = tuple(dict.fromkeys(name for side in sides for name in side.not_captured))
        if self._sees and not _has_vision(self.actual):
            missing = tuple(dict.fromkeys((*filter(is_vision, self.expected), *missing)))
        return TraceDiff(self._tensors, problems, tuple(self._routing), self._flip_gaps, self._predictions, missing)


def compare_logits(actual: TraceReader, expected: TraceReader, keep: Tensor) -> float:
    """Return the relative L2 error of the logits alone; infinite where they cannot be compared."""
    actual_logits, expected_logits = actual.tensor(LOGITS), expected.tensor(LOGITS)
    if find_mismatch(LOGITS, actual_logits, expected_logits, dtype=actual_logits.dtype):
        return float("inf")
    diff = compare_tensors(actual_logits, expected_logits, keep=keep, all_figures=False)
    return diff.error if diff.finite else float("inf")


def extract_teacher_trace(trace: TraceReader, part: BatchSlice, path: Path) -> TraceReader:
    """Write a part of a trace at `path` as a new trace.

    It holds only the tensors that teacher forcing reads.
    """
    writer = TraceWriter(path)
    for scope in trace.scopes:
        names = [name for name in list_mandatory_tensors(trace.scopes) if name in trace.names(scope)]
        writer.write_scope(scope, {name: part.cut(trace.tensor(name)) for name in names})
    result = trace.result
    writer.finish(ran=result.ran, dtype=result.dtype, device=result.device, seconds=0.0)
    return TraceReader(path)


def _has_vision(trace: TraceReader) -> bool:
    return any(map(is_vision, trace.scopes))
