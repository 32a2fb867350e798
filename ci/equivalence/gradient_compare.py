"""Gradients by Hugging Face's parameter names, under the same tolerances as the forward pass.

They catch what no forward pass shows: a detached path, a wrong recomputation, a tied gradient that is not summed, an
expert's gradient in another one's buffer.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.equivalence.case_result import MAX_MEASURES
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.relative_error import compute_relative_error
from ci.equivalence.tolerances import MAX_GRADIENT_NOISE, NoiseFloor, Tolerances
from ci.equivalence.verdict import Verdict
from ci.errors import InfrastructureError, SubjectError
from ci.evidence import Measure
from ci.subjects.base import Differentiable, DType, GradientRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ci.equivalence.inputs import InputCase


@dataclass
class GradientComparison:
    """The backward pass over the longest single sequence, in float32, against Hugging Face's in float64.

    `variant` is the subject's; Hugging Face's side has what it names in its config.
    """

    reference: ReferenceRun
    subject: Differentiable
    subject_path: str
    formats: tuple[str, str]
    workdir: Path
    variant: Mapping[str, str] = field(default_factory=dict)

    def measure(self) -> tuple[Measure, ...]:
        """Compare every parameter's gradient.

        Raises SubjectError where one has no counterpart, InfrastructureError where Hugging Face disagrees with itself.
        """
        expected = self._run_reference(
            "expected", self.reference.gradient_dtype, self.reference.runner.choose_variant("eager")
        )
        floors = self._measure_floors(expected)
        actual = self.workdir / "actual"
        self.reference.lease.acquire(self.subject)
        with self.reference.costs.clock.measure("forward", "subject float32 gradients"):
            self.subject.gradients(self._build_request(self.subject_path, actual, "float32", dict(self.variant)))
        if unknown := list_unexpected(actual, expected, self.reference.checkpoint):
            raise SubjectError(f"gradient of a parameter that Hugging Face does not have: {unknown[0]}")
        tolerances = Tolerances("float32", floors, self.reference.params.compare_factor)
        return tuple(measure_gradients(actual, expected, tolerances))

    @cached_property
    def _case(self) -> InputCase:
        """One sequence without padding: the long one where there is one, else the last document.

        A model that sees gets images, or no gradient would reach its tower.
        """
        cases = [case for case in self.reference.cases if case.images is not None] or self.reference.cases
        return avoid_padding_token(cases[-1], self.reference.config)

    def _measure_floors(self, expected: Path) -> dict[str, NoiseFloor]:
        """Return the largest error of Hugging Face's float32 variants, by parameter."""
        floors: dict[str, NoiseFloor] = {}
        for variant in self.reference.list_variants(self._case):
            noisy = self._run_reference("noise", "float32", {**variant, **self._run_whole})
            for name, error in compute_errors(noisy, expected).items():
                if not error < MAX_GRADIENT_NOISE:
                    raise InfrastructureError(
                        f"inconclusive: Hugging Face's own gradients of {name} differ by {error:.2g} from float32 to "
                        f"{self.reference.gradient_dtype}"
                    )
                floors[name] = NoiseFloor(max(floors.get(name, NoiseFloor()).error, error))
            shutil.rmtree(noisy)
        return floors

    @property
    def _run_whole(self) -> dict[str, str]:
        """The choice that runs the sequence as it is, where the model has one."""
        return {axis: name for axis, name in self.reference.runner.choose_variant("").items() if axis == "batch"}

    def _run_reference(self, name: str, dtype: DType, variant: dict[str, str]) -> Path:
        checkpoint = str(self.reference.checkpoint)
        return self.reference.runner.run_gradients(self._build_request(checkpoint, self.workdir / name, dtype, variant))

    def _build_request(self, checkpoint: str, output: Path, dtype: DType, variant: dict[str, str]) -> GradientRequest:
        inputs = str(self.reference.runner.write_inputs(self._case))
        checkpoint_format, model_config = self.formats
        return GradientRequest(
            checkpoint, inputs, str(output), checkpoint_format, model_config, dtype, self.reference.device, variant
        )


def compute_errors(actual: Path, expected: Path) -> dict[str, float]:
    """Return the relative L2 error of each parameter's gradient; infinite where it is missing or misshapen."""
    actual_tensors, expected_tensors = CheckpointTensors(actual), CheckpointTensors(expected)
    return {
        name: compute_relative_error(actual_tensors.read(name), expected_tensors.read(name))
        if name in actual_tensors
        else math.inf
        for name in expected_tensors.files
    }


def avoid_padding_token(case: InputCase, config: Mapping[str, Any]) -> InputCase:
    """Return the case without the padding token as an input.

    torch's Embedding gives the row of its `padding_idx` no gradient, whatever was fed:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html
    """
    padding = find_padding_token(config)
    if padding is None or not bool((case.ids == padding).any()):
        return case
    return replace(case, name="gradients", ids=replace_token(case.ids, padding))


def find_padding_token(config: Mapping[str, Any]) -> int | None:
    """Return the padding token of a config.json, None where it names none."""
    padding = (config.get("text_config") or config).get("pad_token_id")
    return padding if isinstance(padding, int) else None


def replace_token(ids: Tensor, token: int | None) -> Tensor:
    """Return the ids with another one in the place of a token."""
    return ids if token is None else ids.masked_fill(ids == token, 1 if token == 0 else token - 1)


def list_unexpected(actual: Path, expected: Path, checkpoint: Path) -> list[str]:
    """List the gradients of tensors that are neither parameters in Hugging Face nor buffers on disk."""
    known = {*CheckpointTensors(expected).files, *CheckpointTensors(checkpoint).files}
    return [name for name in CheckpointTensors(actual).files if name not in known]


def measure_gradients(actual: Path, expected: Path, tolerances: Tolerances) -> Iterator[Measure]:
    """Yield each parameter's gradient against its limit, in the order of the file."""
    for name, error in compute_errors(actual, expected).items():
        floor, limit = tolerances.get_floor(name).error, tolerances.get_error_limit(name)
        yield Measure(
            tensor=f"gradient of {name}",
            dtype=tolerances.dtype,
            shape=tuple(CheckpointTensors(expected).read(name).shape),
            error=error,
            limit=limit,
            floor=floor,
            ratio=error / floor,
            passed=error <= limit,
            case="gradients",
        )


def build_gradient_verdict(measures: Sequence[Measure]) -> Verdict:
    """Build the verdict; it names the last wrong gradient in the order of the forward.

    That is where the backward pass went wrong. Raises ValueError without any measure.
    """
    wrong = [measure for measure in measures if not measure.passed]
    worst = max(measures, key=lambda measure: measure.used)
    first = f"{wrong[-1].tensor} [kernel] is wrong" if wrong else ""
    more = f", as are {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Verdict(
        passed=not wrong,
        failure_class="numeric_mismatch" if wrong else None,
        diagnosis=f"backward pass: {first}{more}" if wrong else "",
        measures=tuple(sorted(measures, key=lambda measure: -measure.used)[:MAX_MEASURES]),
        worst=worst,
        component="kernel" if wrong else "",
        figures={"gradients.used": worst.used, "gradients.ratio": worst.ratio or 0.0},
    )
