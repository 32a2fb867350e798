"""The verdict over a training step names what left the noise, and what contradicts the layout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from ci.equivalence.training_compare import build_training_verdict, group_by_layer
from ci.errors import SubjectError
from ci.evidence import Measure
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.training import TrainRequest, TrainResult

GOOD = Measure("loss, step 1", "float32", (), 1e-8, 1e-6, 1e-7, 0.1)
BAD = replace(GOOD, tensor="gradient of w, step 1", error=1.0, passed=False)


def test_a_verdict_says_what_is_wrong() -> None:
    assert build_training_verdict([GOOD], [], "", {}, {}).passed
    wrong = build_training_verdict([GOOD, BAD], [], "", {}, {})
    assert wrong.diagnosis == "training step: gradient of w, step 1 is the first quantity to leave Hugging Face's noise"
    assert build_training_verdict([GOOD, BAD], [], "the cause", {}, {}).diagnosis == "the cause"
    other = build_training_verdict([GOOD], ["layout tp2: single ran instead"], "", {}, {})
    assert (other.passed, other.failure_class) == (False, "variant_did_not_run")
    assert other.diagnosis == "layout tp2: single ran instead"


class Careless(ReferenceSubject):
    """Leaves something out of a right result."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change

    def train(self, request: TrainRequest) -> TrainResult:
        from pathlib import Path

        result = super().train(request)
        file = Path(request.output) / "step-1" / "gradients" / "model.safetensors"
        if self.change == "a step":
            return replace(result, losses=result.losses[:1])
        if self.change == "a shard":
            return replace(result, not_gathered=("decoder.0.mixer.dense",))
        tensors: dict[str, Any] = load_file(file)
        if self.change == "a gradient":
            tensors.pop("model.norm.weight")
        else:
            tensors["model.other.weight"] = tensors["model.norm.weight"].clone()
        save_file(tensors, file)
        return result


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("a step", "2 steps were asked for, 1 losses came back"),
        ("a shard", "decoder.0.mixer.dense is cut over ranks and could not be gathered"),
        ("a gradient", "step 1 has no gradient of model.norm.weight"),
        ("a name", "that Hugging Face does not have: model.other.weight"),
    ],
)
def test_what_is_not_there_is_an_error(change: str, words: str, trained: Experiment, tmp_path: Path) -> None:
    judge = trained.judge(Careless(change), trained.converted)
    with pytest.raises(SubjectError, match=words):
        judge.check_training("single")


def test_a_layers_gradients_are_one_buffer() -> None:
    names = ("model.layers.0.a", "embed", "model.layers.1.a", "model.layers.0.b", "vision.layers.0.a")
    assert group_by_layer(names) == [
        ["model.layers.0.a", "model.layers.0.b"],
        ["embed"],
        ["model.layers.1.a"],
        ["vision.layers.0.a"],
    ]


def test_the_noise_of_a_norm_is_that_of_long_sums(trained: Experiment) -> None:
    """A norm in float32 over one buffer rounds more than over each tensor: it must be within the limit."""
    verdict = trained.judge(ReferenceSubject(), trained.converted).check_training("single")
    norms = {m.tensor: m for m in verdict.measures if "norm of its own" in m.tensor or "gradient norm" in m.tensor}
    assert all(measure.passed and measure.limit < 1e-4 for measure in norms.values())
