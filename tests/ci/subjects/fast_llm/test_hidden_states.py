"""Names and order of hidden states, with a stand-in for Fast-LLM's model."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ci.subjects.fast_llm.hidden_states import name_hidden_states, sort_routing


def make_base() -> SimpleNamespace:
    head = SimpleNamespace(module_name="head", final_norm=SimpleNamespace(module_name="head.final_norm"))
    blocks = [SimpleNamespace(module_name=f"decoder.{index}") for index in range(2)]
    return SimpleNamespace(embeddings=SimpleNamespace(module_name="embeddings"), head=head, decoder=blocks)


def test_names_are_the_trace_s() -> None:
    names = name_hidden_states(make_base(), everything=True)
    assert names["head.final_norm"] == "final_norm"
    assert names["head.logits"] == "logits"
    assert names["decoder.1"] == "decoder.1"
    assert names["decoder.1.mixer_output"] == "decoder.1.mixer"
    assert "decoder.1.mixer" not in names
    whole = name_hidden_states(make_base(), everything=False)
    assert set(whole.values()) == {"embeddings", "decoder.0", "decoder.1", "final_norm", "logits"}


def test_experts_are_sorted_by_their_scores() -> None:
    states = {
        "decoder.0.mlp.router_top_experts": [torch.tensor([[3, 1]])],
        "decoder.0.mlp.router_scores": [torch.tensor([[0.2, 0.8]])],
    }
    experts, scores = sort_routing(states).values()
    assert experts[0].tolist() == [[1, 3]]
    assert torch.equal(scores[0], torch.tensor([[0.8, 0.2]]))
