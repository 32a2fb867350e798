"""vLLM's adapter over a module in vLLM's place; test_real_vllm.py has the real one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ci.consumers.base import ContinueRequest, ScoreRequest
from ci.consumers.load_errors import find_load_fault
from ci.consumers.score_files import find_scored, read_continuation, read_scores
from ci.consumers.transformers_engine import TransformersEngine
from ci.consumers.vllm_engine import VARIABLES, VllmEngine
from ci.errors import SubjectError
from tests.ci.consumers import stand_in_vllm
from tests.ci.equivalence.served_models import build_served, edit_config

if TYPE_CHECKING:
    from pathlib import Path

KEEP = torch.tensor([[1] * 12, [0] * 5 + [1] * 7])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    monkeypatch.setitem(sys.modules, "vllm", stand_in_vllm)
    monkeypatch.setattr(stand_in_vllm.LLM, "made", [])
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return VllmEngine()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    ids = torch.randint(0, 331, KEEP.shape, generator=torch.Generator().manual_seed(1))
    save_file({"input_ids": ids, "attention_mask": KEEP}, tmp_path / "inputs.safetensors")
    return tmp_path / "inputs.safetensors"


def test_it_scores_and_continues_as_transformers_does(vllm: VllmEngine, inputs: Path, tmp_path: Path) -> None:
    checkpoint = build_served("llama", tmp_path / "llama")
    scores, continuations, results = [], [], []
    for engine in (vllm, TransformersEngine()):
        name = type(engine).__name__
        result = engine.score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / name), top=4))
        assert (result.tokens, result.dtype, result.tokenizer) == (17, "float32", "")
        scores.append(read_scores(tmp_path / name, KEEP.bool(), 4))
        ask = ContinueRequest(
            str(checkpoint), str(inputs), f"{tmp_path}/{name}-more", tokens=5, top=4, stop_ids=(42, 7)
        )
        results.append(engine.continue_greedily(ask))
        continuations.append(read_continuation(tmp_path / f"{name}-more", 2, 5, 4))
        engine.release()
    where = find_scored(KEEP.bool())
    assert torch.allclose(scores[0].logprobs[where], scores[1].logprobs[where], atol=1e-5)
    assert torch.equal(scores[0].top_ids, scores[1].top_ids)
    assert torch.equal(continuations[0].ids, continuations[1].ids)
    assert [result.stops for result in results] == [{"42": True, "7": False}] * 2
    assert [result.default_dtype for result in results] == ["float32"] * 2
    assert [result.context for result in results] == [512] * 2
    assert results[0].text_ids == results[1].text_ids != ()
    assert results[0].sampling["temperature"] == "0.6"


def test_one_engine_serves_requests_until_one_is_longer(vllm: VllmEngine, inputs: Path, tmp_path: Path) -> None:
    checkpoint = build_served("llama", tmp_path / "llama")
    for name in ("one", "two"):
        vllm.score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / name)))
    assert len(stand_in_vllm.LLM.made) == 1
    vllm.score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / "other"), dtype="bfloat16"))
    assert [made["dtype"] for made in stand_in_vllm.LLM.made] == ["float32", "bfloat16"]
    assert stand_in_vllm.LLM.made[0]["max_model_len"] == 512, "no more than the model's own context"


def test_a_refusal_has_the_first_words_of_its_chain(vllm: VllmEngine, inputs: Path, tmp_path: Path) -> None:
    checkpoint = build_served("llama", tmp_path / "llama")
    edit_config({"architectures": ["LamaForCausalLM"]}, checkpoint)
    with pytest.raises(SubjectError, match=r"Model architectures \['LamaForCausalLM'\] are not supported") as refused:
        vllm.score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / "out")))
    assert find_load_fault(str(refused.value)) == "architecture_refused"


def test_a_checkpoint_without_a_tokenizer_is_served_and_says_so(vllm: VllmEngine, inputs: Path, tmp_path: Path) -> None:
    checkpoint = build_served("llama", tmp_path / "llama")
    (checkpoint / "tokenizer.json").write_text("{")
    result = vllm.score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / "damaged")))
    assert result.tokenizer
    assert stand_in_vllm.LLM.made[-1]["skip_tokenizer_init"]
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (checkpoint / name).unlink()
    result = vllm.score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / "absent")))
    assert result.tokenizer == "no tokenizer file in the checkpoint"


def test_the_description_names_version_and_flags(vllm: VllmEngine) -> None:
    described = vllm.describe()
    assert (described.consumer, described.version) == ("vllm", "0.32.0")
    assert described.flags["batch invariant"]
