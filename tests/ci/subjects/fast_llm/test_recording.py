"""Hidden states are passed on and not kept; a layer's forward is put back."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ci.subjects.fast_llm.recording import HIDDEN_STATES, RecordingDict, replace_forward
from ci.tensor_names import BLOCK_OPERATIONS, MIXER


def test_every_hidden_state_has_a_name_of_ours() -> None:
    assert set(HIDDEN_STATES.values()) <= set(BLOCK_OPERATIONS)
    assert [name for name, ours in HIDDEN_STATES.items() if ours == MIXER] == ["mixer_output"]


def test_what_is_stored_is_passed_on_and_forgotten() -> None:
    seen = []
    states = RecordingDict(lambda name, tensor: seen.append((name, float(tensor))))
    states["decoder.0.mlp"] = (None, torch.tensor(3.0))
    assert seen == [("decoder.0.mlp", 3.0)]
    assert not states


def test_a_forward_is_replaced_for_the_length_of_the_context() -> None:
    class Layer(SimpleNamespace):
        def forward(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    layer = Layer()
    with replace_forward(layer, lambda tensor: tensor * 2):
        assert float(layer.forward(torch.tensor(2.0))) == 4.0
    assert float(layer.forward(torch.tensor(2.0))) == 2.0
