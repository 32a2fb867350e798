"""Hooks on transformers' decoders: where their blocks are, and what each implementation notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ci.errors import UnsupportedError
from ci.subjects.forward import Inputs, TraceRecorder
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.hooks import ForwardHooks
from ci.subjects.hugging_face.structure import find_decoder_blocks, has_experts
from ci.subjects.trace_files import TraceWriter
from ci.tensor_names import ROUTER_LOGITS, tensor_name
from tests.ci.subjects.tiny import CONFIGS, save_inputs, trace_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def hugging_face() -> Iterator[HuggingFace]:
    with HuggingFace() as runner:
        yield runner


def build(name: str) -> Any:
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def test_blocks_are_found_by_their_number() -> None:
    model = build("llama")
    assert find_decoder_blocks(model) is model.model.layers
    model.twin = nn.ModuleList(nn.Sequential(nn.Identity(), nn.Identity()) for _ in model.model.layers)
    with pytest.raises(UnsupportedError, match="found 2 stacks of 3 decoder blocks"):
        find_decoder_blocks(model)


@pytest.mark.parametrize(("name", "experts"), [("llama", False), ("mixtral", True)])
def test_hooks_record_every_operation_and_go_away(name: str, experts: bool, tmp_path: Path) -> None:
    model, ids = build(name), torch.tensor([[1, 2, 3]])
    recorder = TraceRecorder(TraceWriter(tmp_path / "trace"), Inputs(ids), torch.float32)
    hooks = ForwardHooks(model, recorder, capture_all=True)
    with torch.inference_mode(), hooks.installed():
        model(input_ids=ids, use_cache=False)
    assert has_experts(model) == experts
    assert set(hooks.list_expected()) <= set(recorder.written)
    assert (tensor_name(0, ROUTER_LOGITS) in hooks.list_expected()) == experts
    assert hooks.ran.keys() == {"attention", *(["experts"] if experts else [])}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["gemma2", "qwen3", "gpt_neox"])
def test_other_decoders_give_their_blocks(name: str, tmp_path: Path, hugging_face: HuggingFace) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = AutoConfig.for_model(name, vocab_size=211, head_dim=8, num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
    inputs = save_inputs(tmp_path / "inputs.safetensors")
    request = trace_request(tmp_path / name, inputs, tmp_path / "trace", capture="all")
    result = hugging_face.trace(request)
    written = {name for scope in result.names.values() for name in scope}
    assert {"embeddings", "decoder.0", "decoder.1", "final_norm", "logits"} <= written
    assert not written & set(result.not_captured)
    if name != "gpt_neox":
        assert result.not_captured == ()
