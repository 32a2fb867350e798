"""A subject's training steps against Hugging Face's: losses, norms, gradients and updates by Hugging Face's names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ci.equivalence.adamw_oracle import OptimizerHistory, compute_scales, compute_updates
from ci.equivalence.case_result import MAX_MEASURES
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.relative_error import compute_relative_error
from ci.equivalence.tolerances import SCALAR_FLOOR, NoiseFloor, Tolerances
from ci.equivalence.training_reference import TrainingExpectation, compare_numbers, expected_updates, name_gradients
from ci.equivalence.verdict import Verdict
from ci.errors import SubjectError
from ci.evidence import Measure
from ci.subjects.training import TrainResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from ci.subjects.base import DType

DTYPE: DType = "float32"
LONGEST_SUM = 2**28
"""Numbers that are summed at once: 1 GiB of float32."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks)\.\d+\.")


@dataclass(frozen=True)
class TrainingRun:
    """A subject's finished run: its result, and the output directory of its request."""

    result: TrainResult
    directory: Path

    def open_gradients(self, step: int) -> CheckpointTensors:
        """Return the gradients of a step."""
        return CheckpointTensors(name_gradients(self.directory, step))

    def open_weights(self, step: int) -> CheckpointTensors:
        """Return the weights after a step."""
        return CheckpointTensors(self.directory / f"step-{step}" / "weights")


@dataclass(frozen=True)
class TrainingComparison:
    """One run against what it must give. Quantities are compared one tensor at a time."""

    expected: TrainingExpectation
    run: TrainingRun
    compare_factor: float = 1.0
    _own_norms: dict[int, tuple[float, float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def measure(self) -> Iterator[Measure]:
        """Yield every quantity against its limit.

        Raises SubjectError for a missing step, and for a parameter that Hugging Face does not have or that is missing.
        """
        self._check_complete()
        norms = [self.compute_own_norm(step) for step in self.steps]
        for step in self.steps:
            yield from self._measure_step(step, norms[step - 1])
        for name in self.expected.names:
            yield from self._measure_updates(name, norms)

    @property
    def steps(self) -> range:
        """The numbers of the steps, from 1."""
        return range(1, self.expected.request.steps + 1)

    def _measure_step(self, step: int, own_norm: tuple[float, float]) -> Iterator[Measure]:
        result, expected = self.run.result, self.expected.result
        yield self._judge(f"loss, step {step}", (), compare_numbers(result.losses[step - 1], expected.losses[step - 1]))
        norm = result.gradient_norms[step - 1]
        if norm is not None:
            exact, single = own_norm
            floor, quantity = compare_numbers(single, exact), f"gradient norm, step {step}"
            error = compare_numbers(norm, expected.gradient_norms[step - 1])
            yield self._judge(quantity, (), error, max(floor, self.expected.floors.get(quantity, 0.0)))
            yield self._judge(f"norm of its own gradients, step {step}", (), compare_numbers(norm, exact), floor)
        actual, wanted = self.run.open_gradients(step), self.expected.open_gradients(step)
        for name in self.expected.names:
            tensor = wanted.read(name)
            error = compute_relative_error(actual.read(name), tensor)
            yield self._judge(f"gradient of {name}, step {step}", tuple(tensor.shape), error)

    def _measure_updates(self, name: str, norms: Sequence[tuple[float, float]]) -> Iterator[Measure]:
        """Yield each step's update: against AdamW on Hugging Face's gradients, and on the subject's own."""
        actual, history = self.read_updates(name), self.read_history(name, [norm for norm, _ in norms])
        settings = self.expected.request.optimizer
        own, noisy = compute_updates(history, settings), compute_updates(history, settings, torch.float32)
        wanted, shape = expected_updates(self.expected, name), tuple(history.weight.shape)
        for index, step in enumerate(self.steps):
            error = compute_relative_error(actual[index], wanted[index])
            yield self._judge(f"update of {name}, step {step}", shape, error)
            error, floor = (compute_relative_error(update[index], own[index]) for update in (actual, noisy))
            yield self._judge(f"AdamW of {name}, step {step}", shape, error, floor)

    def read_updates(self, name: str) -> list[Tensor]:
        """Return by step what the subject added to a parameter, in float64."""
        weights = [CheckpointTensors(self.expected.checkpoint).read(name)]
        weights += [self.run.open_weights(step).read(name) for step in self.steps]
        wide = [weight.double() for weight in weights]
        if any(weight.shape != wide[0].shape for weight in wide):
            raise SubjectError(f"weight of {name} has shape {tuple(wide[-1].shape)}, expected {tuple(wide[0].shape)}")
        return [after - before for before, after in pairwise(wide)]

    def read_history(self, name: str, norms: Sequence[float]) -> OptimizerHistory:
        """Return what the subject's own optimizer must have seen of a parameter."""
        gradients = tuple(self.run.open_gradients(step).read(name) for step in self.steps)
        scales = compute_scales(norms, self.expected.request.optimizer.max_gradient_norm)
        return OptimizerHistory(CheckpointTensors(self.expected.checkpoint).read(name), gradients, scales)

    def compute_own_norm(self, step: int) -> tuple[float, float]:
        """Return the L2 norm of a step's own gradients, computed in float64, and by one sum in float32.

        Optimizers keep gradients in buffers, the largest of which holds all of them: the longer the sum, the more it
        rounds. Beyond LONGEST_SUM numbers each layer is summed alone.
        """
        if step not in self._own_norms:
            opened, names = self.run.open_gradients(step), self.expected.names
            norms, count = [], 0
            for name in names:
                gradient = opened.read(name)
                norms.append(gradient.double().norm())
                count += gradient.numel()
            buffers = [names] if count <= LONGEST_SUM else group_by_layer(names)
            single = [torch.cat([opened.read(name).float().flatten() for name in buffer]).norm() for buffer in buffers]
            self._own_norms[step] = float(torch.stack(norms).norm()), float(torch.stack(single).norm())
        return self._own_norms[step]

    def _judge(self, quantity: str, shape: tuple[int, ...], error: float, floor: float | None = None) -> Measure:
        """Compare an error with the limit that its noise floor gives."""
        measured = self.expected.floors.get(quantity, 0.0) if floor is None else floor
        measured = measured if shape else max(measured, SCALAR_FLOOR)
        tolerances = Tolerances(DTYPE, {quantity: NoiseFloor(measured)}, self.compare_factor)
        least, limit = tolerances.get_floor(quantity).error, tolerances.get_error_limit(quantity)
        return Measure(
            quantity, DTYPE, shape, error, limit, least, error / least, passed=error <= limit, case="training"
        )

    def _check_complete(self) -> None:
        result, steps = self.run.result, self.expected.request.steps
        if not len(result.losses) == len(result.gradient_norms) == steps:
            raise SubjectError(f"training: {steps} steps were asked for, {len(result.losses)} losses came back")
        if result.not_gathered:
            raise SubjectError(f"training: {result.not_gathered[0]} is cut over ranks and could not be gathered")
        known, stored = set(self.expected.names), CheckpointTensors(self.expected.checkpoint).files
        for step in self.steps:
            for what, opened in (("gradient", self.run.open_gradients(step)), ("weight", self.run.open_weights(step))):
                if missing := sorted(known - set(opened.files)):
                    raise SubjectError(f"training: step {step} has no {what} of {missing[0]}")
                if unknown := sorted(set(opened.files) - known - set(stored)):  # buffers, and what did not run
                    raise SubjectError(f"training: {what} of a parameter that Hugging Face does not have: {unknown[0]}")


def group_by_layer(names: Sequence[str]) -> list[list[str]]:
    """Group parameters' names by layer; each one outside of the layers is alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = _LAYER.search(name)
        groups.setdefault(name[: layer.end()] if layer else name, []).append(name)
    return list(groups.values())


def build_training_verdict(
    measures: Sequence[Measure],
    problems: Sequence[str],
    finding: str,
    coverage: Mapping[str, str],
    ran: Mapping[str, str],
) -> Verdict:
    """Build the verdict: `problems` are what contradicts the layout, `finding` is the cause where it was found.

    Raises ValueError without any measure.
    """
    wrong = [measure for measure in measures if not measure.passed]
    worst = max(measures, key=lambda measure: (not measure.passed, measure.used))
    return Verdict(
        passed=not (wrong or problems),
        failure_class="numeric_mismatch" if wrong else ("variant_did_not_run" if problems else None),
        diagnosis=_describe(wrong, problems, finding),
        measures=tuple(sorted(measures, key=lambda measure: -measure.used)[:MAX_MEASURES]),
        worst=worst,
        component="kernel" if wrong or problems else "",
        coverage=coverage,
        ran=ran,
        figures={
            "training.used": worst.used,
            "training.ratio": worst.ratio or 0.0,
            "training.quantities": len(measures),
        },
    )


def _describe(wrong: Sequence[Measure], problems: Sequence[str], finding: str) -> str:
    if not wrong:
        return "; ".join(problems)
    if problems and not finding:
        return "; ".join(problems)
    first = f"{wrong[0].tensor} is the first quantity to leave Hugging Face's noise"
    many = f", as do {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return "; ".join([finding or f"training step: {first}{many}", *problems])
