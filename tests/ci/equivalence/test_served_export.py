"""Exports as an engine serves them: clean ones are green, and each planted fault is found.

The engine is the stand-in, transformers with another attention; tests/ci/consumers/test_real_vllm.py runs the same
with vLLM where there is one.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.consumers.transformers_engine import TransformersEngine
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.served_export import ServedExport, score_logits
from ci.equivalence.served_verdict import GREEDY, LOGPROBS
from ci.errors import NotOfferedError, SubjectError
from ci.models import TestParams
from ci.subjects.base import ConvertRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.equivalence.served_faults import FAULTS, KIN, plant_fault
from tests.ci.equivalence.served_models import build_served, edit_config

if TYPE_CHECKING:
    from ci.consumers.base import ContinueRequest, ContinueResult, ScoreRequest, ScoreResult
    from ci.equivalence.verdict import Verdict
    from ci.models import Policy


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReferenceRun]:
    """The references of the models that the tests asked for; each is built once."""
    return Originals(tmp_path_factory.mktemp("served"))


class Originals(dict[str, ReferenceRun]):
    """Builds a model in float32, and its reference run, when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.hugging_face = root, HuggingFace()

    def __missing__(self, name: str) -> ReferenceRun:
        model, _, dtype = name.partition(" ")
        directory = build_served(model, self.root / name.replace(" ", "-"), dtype=dtype or "float32")
        params = TestParams(sequence_length=32)
        self[name] = ReferenceRun(directory, params, self.hugging_face, "cpu", self.root / f"{name}-work")
        return self[name]


def serve(
    reference: ReferenceRun, exported: Path, workdir: Path, policy: Policy = "strict", **rest: Any
) -> tuple[Verdict, ...]:
    rest.setdefault("consumer", TransformersEngine())
    return ServedExport(reference, exported=exported, workdir=workdir, policy=policy, **rest).check()


@pytest.mark.parametrize("name", [*FAULTS, *KIN])
def test_a_planted_fault_of_an_export_is_found(name: str, originals: dict[str, ReferenceRun], tmp_path: Path) -> None:
    fault = (FAULTS | KIN)[name]
    reference = originals[fault.model]
    exported = plant_fault(fault, reference.checkpoint, tmp_path / "exported")
    (verdict,) = serve(reference, exported, tmp_path / "work")
    assert not verdict.passed
    assert (verdict.failure_class == "export_incomplete") is fault.files, verdict.diagnosis
    assert re.search(fault.named, verdict.diagnosis)


def test_a_lost_window_shows_behind_its_end(originals: dict[str, ReferenceRun], tmp_path: Path) -> None:
    reference = originals["mistral"]
    exported = plant_fault(KIN["sliding window dropped"], reference.checkpoint, tmp_path / "exported")
    (verdict,) = serve(reference, exported, tmp_path / "work")
    assert verdict.diagnosis.endswith("the first token beyond its own limit is at position 21"), "a window of 20"


def test_a_head_that_a_config_alone_says_is_tied_is_kept(originals: dict[str, ReferenceRun], tmp_path: Path) -> None:
    """transformers 5 and vLLM 0.32 believe the tensors, so what is served is right: the round trip tells of the key."""
    reference = originals["llama"]
    shutil.copytree(reference.checkpoint, tmp_path / "exported")
    edit_config({"tie_word_embeddings": True}, tmp_path / "exported")
    (verdict,) = serve(reference, tmp_path / "exported", tmp_path / "work")
    assert verdict.passed


@pytest.mark.parametrize("name", ["smollm2", "mixtral bfloat16"])
def test_an_export_of_the_same_bits_is_green(name: str, originals: dict[str, ReferenceRun], tmp_path: Path) -> None:
    reference = originals[name]
    shutil.copytree(reference.checkpoint, tmp_path / "exported")
    converted = tmp_path / "converted"
    trainer, kind = ReferenceSubject(), "mixtral" if "mixtral" in name else "llama"
    trainer.convert(ConvertRequest(str(reference.checkpoint), str(converted), kind))
    verdicts = serve(reference, tmp_path / "exported", tmp_path / "work", trainer=(trainer, str(converted)))
    assert len(verdicts) == (2 if "bfloat16" in name else 1)
    for verdict in verdicts:
        assert verdict.passed, verdict.diagnosis
        assert {measure.tensor for measure in verdict.measures} == {LOGPROBS, GREEDY}
        assert all(measure.ratio == pytest.approx(1) for measure in verdict.measures if measure.tensor == LOGPROBS)
        dtype = verdict.measures[0].dtype
        assert verdict.figures[f"{dtype}.served_original_rms"] > 0, "without a gap nothing is measured"
        assert 0 < verdict.figures[f"{dtype}.trainer_rollout_rms"] < 1
        assert any(note.startswith("trainer against rollout") for note in verdict.notes)
        assert verdict.served[0].original == verdict.served[0].export
        assert verdict.coverage["served by"].startswith("transformers ")


def test_what_stands_beside_the_weights_is_a_warning_unless_the_policy_is_strict(
    originals: dict[str, ReferenceRun], tmp_path: Path
) -> None:
    reference = originals["llama"]
    exported = plant_fault(FAULTS["missing generation config"], reference.checkpoint, tmp_path / "exported")
    (verdict,) = serve(reference, exported, tmp_path / "work", policy="warn")
    assert verdict.passed
    assert any("generation goes on after token 42" in warning for warning in verdict.warnings)
    assert any("temperature 0.6 became" in warning for warning in verdict.warnings)


def test_an_engine_that_does_not_serve_the_original_says_nothing_about_the_export(
    originals: dict[str, ReferenceRun], tmp_path: Path
) -> None:
    class Refusing(TransformersEngine):
        """Loads nothing."""

        def score(self, request: ScoreRequest) -> ScoreResult:
            raise SubjectError(f"ValueError: no kernel for {request.dtype}")

    reference = originals["llama"]
    with pytest.raises(NotOfferedError, match="does not serve the original either: ValueError: no kernel"):
        serve(reference, reference.checkpoint, tmp_path / "work", consumer=Refusing())


def test_an_engine_that_refuses_the_export_alone_makes_it_red_with_the_class(
    originals: dict[str, ReferenceRun], tmp_path: Path
) -> None:
    reference = originals["llama"]
    shutil.copytree(reference.checkpoint, tmp_path / "exported")
    edit_config({"model_type": "lama", "architectures": ["LamaForCausalLM"]}, tmp_path / "exported")
    (verdict,) = serve(reference, tmp_path / "exported", tmp_path / "work")
    assert verdict.failure_class == "config_mismatch"
    assert "serves the original and not the export: the engine refuses the architecture" in verdict.diagnosis


def test_a_continuation_that_leaves_the_originals_is_found(originals: dict[str, ReferenceRun], tmp_path: Path) -> None:
    """An engine whose scores are right and whose cache is wrong for one directory: only the continuation shows it."""

    class WrongCache(TransformersEngine):
        """Continues the export from its first token alone."""

        def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
            if "exported" in request.checkpoint:
                self._cache.release()
                edit_config({"rope_theta": 77.0}, Path(request.checkpoint))
            return super().continue_greedily(request)

    reference = originals["smollm2"]
    shutil.copytree(reference.checkpoint, tmp_path / "exported")
    (verdict,) = serve(reference, tmp_path / "exported", tmp_path / "work", consumer=WrongCache())
    assert not verdict.passed
    assert "continues the export otherwise than the original" in verdict.diagnosis
    assert [m.tensor for m in verdict.measures if not m.passed] == [GREEDY]


def test_scored_logits_are_those_of_the_next_token() -> None:
    logits, ids = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    scored = score_logits(logits, ids)
    assert bool(scored[:, 0].isnan().all())
    expected = -torch.nn.functional.cross_entropy(logits[1, 2:3], ids[1, 3:4])
    assert float(scored[1, 3]) == pytest.approx(float(expected), rel=1e-5)
