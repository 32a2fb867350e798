"""Gradients by name: what is wrong, missing or extra is named, and none is compared with noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.gradient_compare import (
    avoid_padding_token,
    build_gradient_verdict,
    list_unexpected,
    measure_gradients,
)
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.inputs import InputCase
from ci.equivalence.judge import Judge
from ci.equivalence.tolerances import FLOAT32_TOLERANCE, NoiseFloor, Tolerances
from ci.errors import InfrastructureError, NotOfferedError
from ci.evidence import Measure
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import GradientRequest, GradientResult


class GradientHalver(ReferenceSubject):
    """Loses half of one gradient, as a wrong recomputation would."""

    def gradients(self, request: GradientRequest) -> GradientResult:
        result = super().gradients(request)
        file = Path(request.output) / "model.safetensors"
        gradients = load_file(file)
        gradients["model.layers.2.mlp.up_proj.weight"] /= 2
        save_file(gradients, file)
        return result


def test_gradients_are_compared_by_name(moe: Experiment, dense: Experiment) -> None:
    right = moe.judge(ReferenceSubject(), moe.converted).check_gradients()
    assert right.passed, right.diagnosis
    assert right.figures["gradients.ratio"] < 5
    wrong = dense.judge(GradientHalver(), dense.converted).check_gradients()
    assert not wrong.passed
    assert "gradient of model.layers.2.mlp.up_proj.weight [kernel]" in wrong.diagnosis


class BrokenBackward(HuggingFace):
    """A Hugging Face whose float32 backward is broken on this machine."""

    def gradients(self, request: GradientRequest) -> GradientResult:
        result = super().gradients(request)
        if request.dtype == "float32":
            file = Path(request.output) / "model.safetensors"
            gradients = load_file(file)
            gradients["model.layers.2.mlp.up_proj.weight"] *= float("inf")
            save_file(gradients, file)
        return result


def test_a_broken_reference_gradient_is_inconclusive(dense: Experiment, tmp_path: Path) -> None:
    reference = ReferenceRun(dense.source, dense.model.test_params, BrokenBackward(), "cpu", tmp_path / "reference")
    inputs = ComparisonInputs(dense.model, str(dense.source), str(dense.converted), workdir=str(tmp_path))
    judge = Judge(inputs, ReferenceSubject(), BrokenBackward(), shared_reference=reference)
    with pytest.raises(InfrastructureError, match=r"own gradients of model.layers.2.mlp.up_proj.weight differ by inf"):
        judge.check_gradients()


def test_gradients_that_do_not_fit_in_float64_are_compared_with_float32(dense: Experiment, tmp_path: Path) -> None:
    reference = dense.reference.for_checkpoint(dense.source, tmp_path / "reference")
    on_disk = sum(file.stat().st_size for file in dense.source.glob("*.safetensors"))
    for free, dtype in ((17 * on_disk, "float64"), (15 * on_disk, "float32")):
        reference.__dict__["free_bytes"] = free
        reference.__dict__.pop("expected_dtype", None)
        assert reference.expected_dtype == "float64"
        assert reference.gradient_dtype == dtype


def test_a_missing_or_extra_gradient_is_seen(tmp_path: Path) -> None:
    both = {"a": torch.ones(3), "b": torch.ones(2)}
    for name, tensors in {"right": both, "mine": {"a": torch.ones(3)}, "buffer": {"b": torch.ones(2)}}.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    measures = {
        m.tensor: m for m in measure_gradients(tmp_path / "mine", tmp_path / "right", Tolerances("float32", {}))
    }
    assert measures["gradient of a"].passed
    assert not measures["gradient of b"].passed
    assert list_unexpected(tmp_path / "right", tmp_path / "mine", tmp_path / "mine") == ["b"]
    assert not list_unexpected(tmp_path / "right", tmp_path / "mine", tmp_path / "buffer")


@pytest.mark.parametrize(("padding", "fed"), [(0, 1), (5, 4), (None, 0), ([0], 0)])
def test_the_padding_token_which_torch_gives_no_gradient_is_not_fed(padding: Any, fed: int) -> None:
    ids = torch.tensor([[7, padding if isinstance(padding, int) else 0, 9]])
    case = avoid_padding_token(InputCase("long", ids), {"pad_token_id": padding})
    assert case.ids.tolist() == [[7, fed, 9]]
    assert (case.name == "long") == (not isinstance(padding, int))
    untouched = InputCase("long", torch.tensor([[7, 8]]))
    assert avoid_padding_token(untouched, {"text_config": {"pad_token_id": padding}}) is untouched


class Inference:
    """A subject that cannot train."""


def test_a_subject_without_gradients_is_no_pass(dense: Experiment) -> None:
    subject: Any = Inference()
    with pytest.raises(NotOfferedError, match="does not offer gradients"):
        dense.judge(subject, dense.converted).check_gradients()


def gradient(name: str, error: float) -> Measure:
    return Measure(
        f"gradient of {name}", "float32", (1,), error, 1e-5, floor=1e-6, ratio=error / 1e-6, passed=error <= 1e-5
    )


def test_the_last_wrong_gradient_in_the_order_of_the_forward_is_named() -> None:
    right = build_gradient_verdict([gradient("a", 1e-7), gradient("b", 9e-6)])
    assert right.passed
    assert right.worst is not None
    assert right.worst.tensor == "gradient of b"
    assert (right.failure_class, right.component, right.diagnosis) == (None, "", "")
    assert right.figures == {"gradients.used": pytest.approx(0.9), "gradients.ratio": pytest.approx(9.0)}
    wrong = build_gradient_verdict([gradient("a", 1e-4), gradient("b", math.inf), gradient("c", 0.0)])
    assert (wrong.passed, wrong.component, wrong.failure_class) == (False, "kernel", "numeric_mismatch")
    assert wrong.diagnosis == "backward pass: gradient of b [kernel] is wrong, as are 1 more"


def test_no_gradient_at_all_is_no_pass() -> None:
    with pytest.raises(ValueError, match="empty"):
        build_gradient_verdict([])


def test_the_limit_of_a_gradient_is_that_of_the_forward_pass(tmp_path: Path) -> None:
    for name, value in {"actual": 1.0 + 5e-6, "expected": 1.0}.items():
        (tmp_path / name).mkdir()
        save_file({"a": torch.full((8,), value, dtype=torch.float64)}, tmp_path / name / "model.safetensors")
    tolerances = Tolerances("float32", {"a": NoiseFloor(1e-6)}, compare_factor=1.5)
    (measure,) = measure_gradients(tmp_path / "actual", tmp_path / "expected", tolerances)
    assert measure.limit == pytest.approx(FLOAT32_TOLERANCE * 1e-6 * 1.5)
    assert measure.error == pytest.approx(5e-6)
    assert measure.ratio == pytest.approx(5.0)
    assert measure.passed
