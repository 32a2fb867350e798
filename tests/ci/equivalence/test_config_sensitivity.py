"""Config keys: what is dropped or taken for something else is named, and a refusal is no failure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from safetensors.torch import load_file, save_file

from ci.equivalence import config_changes
from ci.equivalence.config_changes import ConfigChange
from ci.equivalence.config_sensitivity import ConfigSensitivity, KeyOutcome, KeyResult, build_sensitivity_verdict
from ci.equivalence.hf_reference import ReferenceRun
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.directories import METADATA
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import ConvertRequest, ConvertResult, TraceRequest, TraceResult


class Rewriter(ReferenceSubject):
    """Writes other words into the converted config, `words` → their replacement."""

    words: ClassVar[dict[str, str]]

    def convert(self, request: ConvertRequest) -> ConvertResult:
        result = super().convert(request)
        metadata = Path(request.target) / METADATA
        text = metadata.read_text()
        for right, wrong in self.words.items():
            text = text.replace(right, wrong)
        metadata.write_text(text)
        return result


DROPPED_EPSILON = {"epsilon: 0.001372": "epsilon: 1.0e-05"}


class Dropper(Rewriter):
    """Converts as if two keys were not there: it drops any epsilon, and takes relu for tanh gelu."""

    words: ClassVar = {"activation: relu": "activation: gelu", **DROPPED_EPSILON}


WANTED = ("rms_norm_eps=0.001372", "hidden_act=relu", "hidden_act=gelu_pytorch_tanh", "rope linear", "rope_theta=31720")


def only(wanted: tuple[str, ...]) -> Any:
    original = config_changes.list_changes

    def list_changes(*arguments: Any) -> tuple[ConfigChange, ...]:
        return tuple(change for change in original(*arguments) if change.name in wanted)

    return list_changes


def test_a_dropped_key_is_named_and_so_is_what_it_was_taken_for(
    dense: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_changes, "list_changes", only(WANTED))
    verdict = dense.judge(Dropper(), dense.converted).check_config_sensitivity()
    assert not verdict.passed
    assert verdict.failure_class == "config_mismatch"
    assert "rms_norm_eps=0.001372 is silently ignored" in verdict.diagnosis
    assert "hidden_act=relu is converted to something else, it answers as hidden_act=gelu_pytorch_tanh would" in (
        verdict.diagnosis
    )
    assert verdict.coverage["config key rope linear"] == "refused"
    assert verdict.coverage["config key rope_theta=31720"] == "alike"


def test_honoured_keys_are_green(dense: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_changes, "list_changes", only(WANTED))
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_config_sensitivity()
    assert verdict.passed, verdict.diagnosis
    assert verdict.figures["config_keys_alike"] == 5, "four changes, and all of them together"
    assert verdict.coverage[
        "config key together: rope_theta=31720, hidden_act=gelu_pytorch_tanh, rms_norm_eps=0.001372"
    ]


class WrongAlready(Rewriter):
    """Has another base of RoPE than the config says, a little off; besides, it drops an epsilon."""

    words: ClassVar = {"theta: 10000.0": "theta: 10000.5", **DROPPED_EPSILON}


def test_what_is_wrong_without_a_change_is_said_once_and_hides_no_key(
    dense: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ("rms_norm_eps=0.001372", "hidden_act=relu", "hidden_act=gelu_pytorch_tanh")
    monkeypatch.setattr(config_changes, "list_changes", only(wanted))
    verdict = dense.judge(WrongAlready(), dense.converted).check_config_sensitivity()
    assert not verdict.passed
    first, second = verdict.diagnosis.split("; ")
    assert first.startswith("the unchanged config is wrong already: logits off by")
    assert second == "rms_norm_eps=0.001372 is silently ignored"
    assert [verdict.coverage[f"config key {name}"] for name in wanted[1:]] == ["alike", "alike"]


class FarOff(Rewriter):
    """Has a base of RoPE that is nothing like the config's."""

    words: ClassVar = {"theta: 10000.0": "theta: 2.0"}


def test_a_key_whose_effect_is_below_what_was_wrong_before_is_not_judged(
    dense: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_changes, "list_changes", only(("hidden_act=gelu_pytorch_tanh",)))
    verdict = dense.judge(FarOff(), dense.converted).check_config_sensitivity()
    assert not verdict.passed
    assert verdict.diagnosis.startswith("the unchanged config is wrong already: logits off by")
    assert verdict.coverage["config key hidden_act=gelu_pytorch_tanh"] == "not judged"


class DropperTogether(ReferenceSubject):
    """Converts each key rightly, but forgets an epsilon where the RoPE base is not its usual one."""

    def convert(self, request: ConvertRequest) -> ConvertResult:
        result = super().convert(request)
        metadata = Path(request.target) / METADATA
        text = metadata.read_text()
        if "31720" in text:
            metadata.write_text(text.replace("epsilon: 0.001372", "epsilon: 1.0e-05"))
        return result


def test_keys_that_are_lost_only_together_are_named(dense: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("rms_norm_eps=0.001372", "rope_theta=31720")
    monkeypatch.setattr(config_changes, "list_changes", only(wanted))
    verdict = dense.judge(DropperTogether(), dense.converted).check_config_sensitivity()
    assert not verdict.passed
    assert [verdict.coverage[f"config key {name}"] for name in wanted] == ["alike", "alike"]
    assert "together: rope_theta=31720, rms_norm_eps=0.001372 is converted to something else" in verdict.diagnosis


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
    monkeypatch.setattr(config_changes, "list_changes", only(("rope_theta=31720",)))
    reference = ReferenceRun(dense.source, dense.model.test_params, Lost(), "cpu", tmp_path / "reference")
    check = ConfigSensitivity(reference, ReferenceSubject(), (dense.tiny_model.model_type, "gpt"), tmp_path / "keys")
    assert [result.outcome for result in check.try_changes()] == ["not legal"]


def result(name: str, outcome: KeyOutcome) -> KeyResult:
    return KeyResult(ConfigChange(name, {}), outcome, error=0.5)


def test_a_key_that_is_ignored_or_converted_to_something_else_fails_and_a_refusal_is_noted() -> None:
    right = build_sensitivity_verdict([result("a", "alike"), result("b", "refused"), result("c", "inert")])
    assert (right.passed, right.failure_class, right.component, right.diagnosis) == (True, None, "", "")
    assert right.coverage == {"config key a": "alike", "config key b": "refused", "config key c": "inert"}
    assert right.notes == ("b: refused",)
    for kind, word in (("silently ignored", "is silently ignored"), ("differs", "is converted to something else")):
        wrong = build_sensitivity_verdict([result("a", "alike"), result("b", kind)])  # type: ignore[arg-type]
        assert (wrong.passed, wrong.failure_class, wrong.component) == (False, "config_mismatch", "conversion")
        assert wrong.diagnosis.startswith(f"b {word}")


@pytest.mark.parametrize("results", [[], [result("a", "inert"), result("b", "not legal")]])
def test_keys_that_change_no_answer_are_inconclusive(results: list[KeyResult]) -> None:
    verdict = build_sensitivity_verdict(results)
    assert (verdict.passed, verdict.failure_class) == (False, "environment")


@pytest.mark.parametrize("outcome", ["alike", "refused"])
def test_one_key_that_moves_is_enough(outcome: KeyOutcome) -> None:
    assert build_sensitivity_verdict([result("a", outcome)]).passed
