"""Walks two traces of the same inputs in execution order and holds each tensor against its twin."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.equivalence import routing
from ci.equivalence.compare import Difference, Problem, difference, distribution, non_finite, problem
from ci.evidence import LayerRouting
from ci.subjects.forward import DTYPES
from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import list_mandatory_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Read = Callable[[str], Tensor]

TOP_EXPERTS = "mlp.router_top_experts"
_LAYER = re.compile(r"decoder\.(\d+)")


@dataclass(frozen=True)
class Part:
    """The part of the expected trace that the actual one covers: all of it, or one row without its padding."""

    row: int | None = None
    padding: int = 0

    def of(self, tensor: Tensor) -> Tensor:
        """(B, T, …) cut to (1, T - padding, …), or as it is."""
        return tensor if self.row is None else tensor[self.row : self.row + 1, self.padding :]


WHOLE = Part()


@dataclass(frozen=True)
class Walked:
    """What the walk found: differences by name in execution order, problems that end it, routing by layer.

    `logits` says how far the predictions are apart. `flips` maps `decoder.<i>.mlp.router_top_experts` to the largest
    gap of a flipped choice, relative to the token's norm of router logits. `not_captured` are the tensors that one of
    the two sides says it cannot give.
    """

    differences: dict[str, Difference] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    routing: tuple[LayerRouting, ...] = ()
    flips: dict[str, float] = field(default_factory=dict)
    logits: dict[str, float] = field(default_factory=dict)
    not_captured: tuple[str, ...] = ()


@dataclass
class Walk:
    """One walk. `keep` is bool (B, T), the real tokens compared; `part` cuts the expected trace, `mine` the actual.

    Tensors are compared on `device`, one of each side at a time; `predictions` asks for the distributions too.

    `allowed` gives the relative error that a token of the named router logits may have; without it every flip counts
    as rounding, as it is between two implementations that are both right. With `carry` false a flip excuses its own
    layer only, which is true where each block was fed the expected input.
    """

    actual: TraceReader
    expected: TraceReader
    keep: Tensor
    part: Part = WHOLE
    mine: Part = WHOLE
    allowed: Callable[[str], float] | None = None
    full: bool = True
    carry: bool = True
    predictions: bool = False
    device: str = "cpu"
    _flipped: Tensor = field(init=False)
    _differences: dict[str, Difference] = field(default_factory=dict, init=False)
    _routing: list[LayerRouting] = field(default_factory=list, init=False)
    _flips: dict[str, float] = field(default_factory=dict, init=False)
    _logits: dict[str, float] = field(default_factory=dict, init=False)

    def run(self) -> Walked:
        """Structure first: with a tensor missing nothing is compared; a tensor that is malformed ends the walk."""
        if problems := tuple(_structure(self.actual, self.expected)):
            return Walked(problems=problems)
        self.keep = self.keep.to(self.device)
        self._flipped = torch.zeros_like(self.keep)
        for scope in self.expected.scopes:
            if found := self._scope(scope):
                return self._walked(found)
        return self._walked()

    def _scope(self, scope: str) -> Problem | None:
        """Compare the tensors of one scope, both files open; the problem that ends the walk, where there is one."""
        if not self.carry:
            self._flipped = torch.zeros_like(self.keep)
        names = [name for name in self.expected.names(scope) if name in self.actual]
        with (
            self._opened(self.actual, self.mine, scope) as mine,
            self._opened(self.expected, self.part, scope) as right,
        ):
            return next((found for name in names if (found := self._step(name, mine, right))), None)

    @contextmanager
    def _opened(self, trace: TraceReader, part: Part, scope: str) -> Iterator[Read]:
        with trace.open_scope(scope, device=self.device) as read:
            yield lambda name: part.of(read(name))

    def _step(self, name: str, mine: Read, right: Read) -> Problem | None:
        """Compare one tensor; the problem that ends the walk, where there is one."""
        actual, expected = mine(name), right(name)
        if found := problem(name, actual, expected, dtype=DTYPES[self.actual.result.dtype]):
            return found
        if name.endswith(TOP_EXPERTS):
            self._route(name, actual, expected, right(_router_logits(name)))
            return None
        difference_ = self._difference(name, actual, expected)
        if not difference_.finite and (found := non_finite(name, actual, expected)):
            return found
        self._differences[name] = difference_
        return None

    def _walked(self, *problems: Problem) -> Walked:
        sides = (self.expected.result, self.actual.result)
        missing = tuple(dict.fromkeys(name for side in sides for name in side.not_captured))
        return Walked(self._differences, problems, tuple(self._routing), self._flips, self._logits, missing)

    def _difference(self, name: str, actual: Tensor, expected: Tensor) -> Difference:
        if name.endswith(".mixer.context"):
            self._flipped = routing.spread(self._flipped)
        keep = self.keep & ~self._flipped
        if self.predictions and name == "logits":
            self._logits = distribution(actual, expected, keep)
        return difference(actual, expected, keep=keep, full=self.full)

    def _route(self, name: str, actual: Tensor, expected: Tensor, logits: Tensor) -> None:
        keep = self.keep & ~self._flipped
        found = routing.flips(actual, expected, logits, keep=keep)
        norm = torch.linalg.vector_norm(logits.double(), dim=-1)
        excused = found.where
        if self.allowed is not None:
            excused = routing.small(found, self.allowed(_router_logits(name)) * norm)
        self._routing.append(routing.summary(layer_of(name) or 0, found, excused, keep=keep))
        relative = (found.gap / norm.clamp(min=torch.finfo(torch.float64).tiny))[keep]
        self._flips[name] = float(relative.max()) if relative.numel() else 0.0
        self._flipped = self._flipped | excused


def logits_error(actual: TraceReader, expected: TraceReader, keep: Tensor) -> float:
    """Relative L2 error of the logits alone; infinite where they cannot be compared."""
    mine, right = actual.tensor("logits"), expected.tensor("logits")
    if problem("logits", mine, right, dtype=mine.dtype):
        return float("inf")
    found = difference(mine, right, keep=keep, full=False)
    return found.error if found.finite else float("inf")


def cut(trace: TraceReader, part: Part, path: Path) -> TraceReader:
    """A new trace at `path` of a part of another: what teacher forcing reads, and nothing more."""
    writer = TraceWriter(path)
    for scope in trace.scopes:
        names = [name for name in list_mandatory_tensors(trace.scopes) if name in trace.names(scope)]
        writer.write_scope(scope, {name: part.of(trace.tensor(name)) for name in names})
    result = trace.result
    writer.finish(ran=result.ran, dtype=result.dtype, device=result.device, seconds=0.0)
    return TraceReader(path)


def _router_logits(name: str) -> str:
    """The logits by which the named choice of experts was made."""
    return name.replace(TOP_EXPERTS, "mlp.router_logits")


def layer_of(name: str) -> int | None:
    """The block that a tensor belongs to, None for embeddings and head."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def _structure(actual: TraceReader, expected: TraceReader) -> Iterator[Problem]:
    """What is missing and was not declared so, and blocks that the reference does not have."""
    always = list_mandatory_tensors(expected.scopes)
    for name in expected:
        if name not in actual and (name in always or name not in actual.result.not_captured):
            yield Problem("missing_tensor", name, f"{name} is missing from the subject's trace")
    for scope in actual.scopes:
        if scope not in expected.scopes:
            yield Problem("unexpected_tensor", scope, f"{scope} is in the subject's trace, the reference has none")
