"""The opt-in tests: keys that are dropped, weights that are not read, gradients that go astray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence import gradients, sensitivity
from ci.equivalence.deep import Gradients, Sensitivity, fresh_truth, perturbed
from ci.equivalence.judge import Judge, Trial
from ci.equivalence.truth import Truth
from ci.equivalence.weights import Weights
from ci.errors import InfrastructureError, NotOfferedError, UnsupportedError
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.directories import METADATA
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.equivalence.sensitivity import Change
    from ci.subjects.base import (
        ConvertRequest,
        ConvertResult,
        GradientRequest,
        GradientResult,
        TraceRequest,
        TraceResult,
    )

QWEN: dict[str, Any] = {
    "hidden_act": "silu",
    "layer_types": ["full_attention"] * 2,
    "max_window_layers": 28,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "sliding_window": None,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 100,
}


def test_every_legal_key_has_an_alternative() -> None:
    names = [change.name for change in sensitivity.changes({"rope_theta": 1e4}, QWEN)]
    assert "rope_theta=30000" in names
    assert "yarn, truncate=False" in " ".join(names)
    assert "use_sliding_window=True" in names
    assert "hidden_act=gelu" in names
    assert "rms_norm_eps=9.999999999999999e-05" in names
    assert not any("vocab_size" in name or "use_cache" in name for name in names)


def test_rope_is_changed_in_the_style_of_the_config() -> None:
    old = {change.name: change.keys for change in sensitivity.changes({"rope_theta": 1e4}, QWEN)}
    new = {change.name: change.keys for change in sensitivity.changes({"rope_parameters": {}}, QWEN)}
    assert old["rope_theta=30000"] == {"rope_theta": 30000.0, "rope_scaling": None}
    assert old["rope linear"] == {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert new["rope linear"]["rope_parameters"]["rope_theta"] == 10000.0
    assert new["rope dynamic"]["max_position_embeddings"] < 64, "it would not be reached otherwise"


class Dropper(ReferenceSubject):
    """Converts as if two keys were not there: it drops any epsilon, and takes relu for tanh gelu."""

    def convert(self, request: ConvertRequest) -> ConvertResult:
        result = super().convert(request)
        metadata = Path(request.target) / METADATA
        text = metadata.read_text().replace("activation: relu", "activation: gelu")
        metadata.write_text(text.replace("epsilon: 0.001", "epsilon: 1.0e-05"))
        return result


WANTED = ("rms_norm_eps=0.001", "hidden_act=relu", "hidden_act=gelu_pytorch_tanh", "rope linear", "rope_theta=30000")


def only(wanted: tuple[str, ...]) -> Any:
    original = sensitivity.changes

    def changes(*arguments: Any) -> tuple[Change, ...]:
        return tuple(change for change in original(*arguments) if change.name in wanted)

    return changes


def test_a_dropped_key_is_named_and_so_is_what_it_was_taken_for(
    dense: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "changes", only(WANTED))
    verdict = dense.judge(Dropper(), dense.converted).config_sensitivity()
    assert not verdict.passed
    assert verdict.failure_class == "config_mismatch"
    assert "rms_norm_eps=0.001 is silently ignored" in verdict.diagnosis
    assert "hidden_act=relu is converted to something else, it answers as hidden_act=gelu_pytorch_tanh would" in (
        verdict.diagnosis
    )
    assert verdict.coverage["config key rope linear"] == "refused"
    assert verdict.coverage["config key rope_theta=30000"] == "alike"


def test_honoured_keys_are_green(dense: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "changes", only(WANTED))
    verdict = dense.judge(ReferenceSubject(), dense.converted).config_sensitivity()
    assert verdict.passed, verdict.diagnosis
    assert verdict.figures["config_keys_alike"] == 4


def test_every_tensor_is_shaken_and_keeps_its_dtype(dense: Experiment, tmp_path: Path) -> None:
    before, after = Weights(dense.source), Weights(perturbed(dense.source, tmp_path / "shaken"))
    assert before.files.keys() == after.files.keys()
    for name in before.files:
        one, other = before.tensor(name), after.tensor(name)
        assert one.dtype == other.dtype
        assert not torch.equal(one, other)


class Deaf(ReferenceSubject):
    """Reads every norm of layer 1 as it was in the checkpoint that it saw first."""

    def convert(self, request: ConvertRequest) -> ConvertResult:
        result = super().convert(request)
        for file in Path(request.target).glob("*.safetensors"):
            weights = load_file(file)
            weights["decoder.1.norm_2.weight/weights"] = torch.ones_like(weights["decoder.1.norm_2.weight/weights"])
            save_file(weights, file)
        return result


def test_a_weight_that_is_not_read_is_named(dense: Experiment) -> None:
    assert dense.judge(ReferenceSubject(), dense.converted).weight_liveness().passed
    verdict = replace(dense.judge(Deaf(), dense.converted), third_opinion=None).weight_liveness()
    assert not verdict.passed
    assert verdict.diagnosis.startswith("layer 1, norm before the MLP [conversion]: ")
    assert "model.layers.1.post_attention_layernorm.weight" in verdict.diagnosis


class Forgetful(ReferenceSubject):
    """Loses half of one gradient, as a wrong recomputation would."""

    def gradients(self, request: GradientRequest) -> GradientResult:
        result = super().gradients(request)
        file = Path(request.output) / "model.safetensors"
        found = load_file(file)
        found["model.layers.2.mlp.up_proj.weight"] /= 2
        save_file(found, file)
        return result


def test_gradients_are_judged_by_name(moe: Experiment, dense: Experiment) -> None:
    right = moe.judge(ReferenceSubject(), moe.converted).gradients()
    assert right.passed, right.diagnosis
    assert right.figures["gradients.ratio"] < 5
    wrong = dense.judge(Forgetful(), dense.converted).gradients()
    assert not wrong.passed
    assert "gradient of model.layers.2.mlp.up_proj.weight [kernel]" in wrong.diagnosis


class Numb(HuggingFace):
    """A Hugging Face whose float32 backward is broken on this machine."""

    def gradients(self, request: GradientRequest) -> GradientResult:
        result = super().gradients(request)
        if request.dtype == "float32":
            file = Path(request.output) / "model.safetensors"
            found = load_file(file)
            found["model.layers.2.mlp.up_proj.weight"] *= float("inf")
            save_file(found, file)
        return result


def test_no_gradient_is_held_against_noise(dense: Experiment, tmp_path: Path) -> None:
    truth = Truth(dense.source, dense.model.test_params, Numb(), "cpu", tmp_path / "truth")
    trial = Trial(dense.model, str(dense.source), str(dense.converted), workdir=str(tmp_path))
    judge = Judge(trial, ReferenceSubject(), Numb(), shared_truth=truth)
    with pytest.raises(InfrastructureError, match=r"own gradients of model.layers.2.mlp.up_proj.weight differ by inf"):
        judge.gradients()


class Lost(HuggingFace):
    """Answers every config but the checkpoint's own with nothing but NaN."""

    def trace(self, request: TraceRequest) -> TraceResult:
        result = super().trace(request)
        if "edited" in request.checkpoint:
            file = Path(request.output) / "head.safetensors"
            head = load_file(file)
            save_file({**head, "logits": head["logits"] * float("nan")}, file)
        return result


def test_a_key_that_makes_hugging_face_answer_nothing_is_not_legal(
    dense: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "changes", only(("rope_theta=30000",)))
    truth = Truth(dense.source, dense.model.test_params, Lost(), "cpu", tmp_path / "truth")
    found = Sensitivity(truth, ReferenceSubject(), (dense.tiny_model.model_type, "gpt"), tmp_path / "keys").findings()
    assert [finding.found for finding in found] == ["not legal"]


def test_gradients_that_do_not_fit_in_float64_are_held_against_float32(dense: Experiment, tmp_path: Path) -> None:
    truth = fresh_truth(dense.truth, dense.source, tmp_path / "truth")
    both = Gradients(truth, ReferenceSubject(), str(dense.converted), ("llama", "gpt"), tmp_path)
    on_disk = sum(file.stat().st_size for file in dense.source.glob("*.safetensors"))
    for free, dtype in ((17 * on_disk, "float64"), (15 * on_disk, "float32")):
        truth.__dict__["free_bytes"] = free
        truth.__dict__.pop("oracle_dtype", None)
        assert truth.oracle_dtype == "float64"
        assert both._oracle_dtype == dtype


def test_a_missing_or_extra_gradient_is_seen(tmp_path: Path) -> None:
    for name, tensors in {"right": {"a": torch.ones(3), "b": torch.ones(2)}, "mine": {"a": torch.ones(3)}}.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    found = {
        m.tensor: m
        for m in gradients.measures(tmp_path / "mine", tmp_path / "right", {}, dtype="float32", compare_factor=1.0)
    }
    assert found["gradient of a"].passed
    assert not found["gradient of b"].passed
    assert gradients.unexpected(tmp_path / "right", tmp_path / "mine") == ["b"]


class Inference:
    """A subject that cannot train."""


def test_a_subject_without_gradients_is_no_pass(dense: Experiment) -> None:
    subject: Any = Inference()
    with pytest.raises(NotOfferedError, match="does not offer gradients"):
        dense.judge(subject, dense.converted).gradients()


def test_a_refusal_at_conversion_is_the_subjects_own_error(dense: Experiment) -> None:
    class Refuser(ReferenceSubject):
        def convert(self, request: ConvertRequest) -> ConvertResult:
            raise UnsupportedError("not today")

    with pytest.raises(UnsupportedError, match="not today"):
        dense.judge(Refuser(), dense.converted).weight_liveness()
