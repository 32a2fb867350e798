from __future__ import annotations

from typing import Any

import torch

from ci.subjects.hugging_face.random_model import draw_weights


def test_every_weight_has_an_effect() -> None:
    linear, norm = torch.nn.Linear(40, 40), torch.nn.RMSNorm(40)
    model: Any = torch.nn.ModuleDict({"embed_tokens": torch.nn.Embedding(50, 40), "linear": linear, "norm": norm})
    model["conv"] = torch.nn.Conv1d(40, 40, 4, groups=40)
    model.register_parameter("A_log", torch.nn.Parameter(torch.zeros(400)))
    draw_weights(model, 0)
    spread = {name: float(weight.detach().std()) for name, weight in model.named_parameters()}
    assert 0.9 < spread["embed_tokens.weight"] < 1.1
    assert 0.14 < spread["linear.weight"] < 0.18
    assert 0.2 < spread["linear.bias"] < 0.4
    assert 0.4 < spread["conv.weight"] < 0.6, "a channel sees its own past alone"
    assert abs(float(model["norm"].weight.detach().mean()) - 1) < 0.2
    assert 0.1 < float(model.A_log.detach().exp().median()) < 1, "some decays keep the past for tens of tokens"
    first = model["linear"].weight.clone()
    draw_weights(model, 1)
    assert not torch.equal(first, model["linear"].weight)
