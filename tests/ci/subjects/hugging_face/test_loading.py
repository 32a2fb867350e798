"""What a checkpoint must hold to be loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import SubjectError
from tests.ci.subjects.tiny import save_model

if TYPE_CHECKING:
    from ci.subjects.hugging_face import HuggingFace


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(change: str, make: Any, hugging_face: HuggingFace) -> None:
    request = make("llama", "trace")
    broken = Path(request.output).with_name("broken")
    save_model("llama", broken)
    weights = load_file(broken / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "model.layers.1.mlp.extra.weight"
        weights[name] = torch.ones(2)
    else:
        weights[name] = torch.ones(3, 4)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SubjectError) as refused:
        hugging_face.trace(replace(request, checkpoint=str(broken)))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path(request.output).exists()
