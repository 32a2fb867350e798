"""transformers as an engine: scores equal a forward pass, and what it cannot load is said in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ci.consumers.base import CONVERSATION, TEXT, ContinueRequest, ScoreRequest
from ci.consumers.score_files import read_scores
from ci.consumers.transformers_engine import TransformersEngine, render_conversation, tokenize_text
from ci.errors import SubjectError
from tests.ci.equivalence.served_faults import FAULTS, KIN, plant_fault
from tests.ci.equivalence.served_models import build_served

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    save_file({"input_ids": torch.tensor([[5, 9, 250, 7, 1]])}, tmp_path / "inputs.safetensors")
    return tmp_path / "inputs.safetensors"


def test_scores_are_log_probabilities_of_the_forward_pass(inputs: Path, tmp_path: Path) -> None:
    checkpoint = build_served("mixtral", tmp_path / "model")
    result = TransformersEngine().score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / "out")))
    assert (result.tokens, result.dtype, result.tokenizer) == (4, "float32", "")
    scores = read_scores(tmp_path / "out", torch.ones(1, 5, dtype=torch.bool), 8)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([[5, 9, 250, 7, 1]])).logits[0], -1)
    assert float(scores.logprobs[0, 2]) == pytest.approx(float(expected[1, 250]), abs=1e-5)
    assert scores.top_ids[0, 4].tolist() == expected[3].topk(8).indices.tolist()


def test_a_missing_tensor_is_refused(inputs: Path, tmp_path: Path) -> None:
    exported = plant_fault(FAULTS["renamed key"], build_served("llama", tmp_path / "model"), tmp_path / "exported")
    with pytest.raises(SubjectError, match=r"tensors are missing: model\.layers\.1\.mlp\.gate_proj\.weight"):
        TransformersEngine().score(ScoreRequest(str(exported), str(inputs), str(tmp_path / "out")))


def test_the_chat_template_is_rendered_where_there_is_one(inputs: Path, tmp_path: Path) -> None:
    checkpoint = build_served("llama", tmp_path / "llama")
    engine = TransformersEngine()
    result = engine.continue_greedily(ContinueRequest(str(checkpoint), str(inputs), str(tmp_path / "out"), tokens=2))
    assert result.chat_ids.count(256) == len(CONVERSATION)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = None
    assert render_conversation(tokenizer) == ()
    assert render_conversation(None) == ()


def test_a_text_is_tokenized_with_what_the_tokenizer_adds(tmp_path: Path) -> None:
    checkpoint = build_served("llama", tmp_path / "llama")
    exported = plant_fault(KIN["beginning added by the tokenizer"], checkpoint, tmp_path / "exported")
    before, after = (tokenize_text(AutoTokenizer.from_pretrained(place)) for place in (checkpoint, exported))
    assert len(before) == len(TEXT.encode())
    assert after == (256, *before)
    assert tokenize_text(None) == ()


def test_an_attention_that_the_model_does_not_have_is_not_forced_on_it(inputs: Path, tmp_path: Path) -> None:
    """Gemma 2 has no sdpa in transformers."""
    checkpoint = build_served("gemma2", tmp_path / "gemma2")
    assert TransformersEngine().score(ScoreRequest(str(checkpoint), str(inputs), str(tmp_path / "out"))).tokens
    assert TransformersEngine().describe().flags["attention"] == "as transformers chooses"
