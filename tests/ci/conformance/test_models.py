from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from ci.conformance.models import FORMATS, SWAPPED, write_model, write_swapped

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("checkpoint_format", FORMATS)
def test_each_format_has_a_model_that_transformers_loads(checkpoint_format: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_model(checkpoint_format, tmp_path / "model"))
    assert model.config.model_type == checkpoint_format


def test_two_tensors_are_exchanged_and_nothing_else(tmp_path: Path) -> None:
    source = write_model("llama", tmp_path / "model")
    before, after = (
        load_file(source / "model.safetensors"),
        load_file(write_swapped(source, tmp_path / "swapped") / "model.safetensors"),
    )
    first, second = SWAPPED
    assert torch.equal(after[first], before[second])
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(SWAPPED)
