from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import RequestError
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.tiny import compare_traces, save_model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_noisier_and_has_its_dtype(dtype: str, make: Any, hugging_face: HuggingFace) -> None:
    expected, low = make("llama", "expected"), make("llama", "low", dtype=dtype)
    hugging_face.trace(expected)
    assert hugging_face.trace(low).dtype == dtype
    assert TraceReader(Path(low.output)).tensor("logits").dtype == getattr(torch, dtype)
    assert 1e-4 < compare_traces(low.output, expected.output)["logits"] < 0.1


def test_the_model_stays_loaded_until_released(make: Any) -> None:
    with HuggingFace() as reference:
        assert reference.trace(make("llama", "first")).load_seconds > 0
        assert reference.trace(make("llama", "second", variant={"attention": "sdpa"})).load_seconds == 0
        reference.release()
        assert reference.trace(make("llama", "third")).load_seconds > 0


def test_a_checkpoint_written_anew_is_loaded_anew(make: Any, tmp_path: Path, hugging_face: HuggingFace) -> None:
    source = save_model("llama", tmp_path / "source")
    before = replace(make("llama", "before"), checkpoint=str(source))
    hugging_face.trace(before)
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    after = replace(before, output=str(tmp_path / "after"))
    hugging_face.trace(after)
    assert compare_traces(after.output, before.output)["logits"] > 0.1


def test_arithmetic_settings_are_restored(make: Any, hugging_face: HuggingFace) -> None:
    before = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    hugging_face.trace(make("llama", "trace"))
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction == before


def test_ids_beyond_the_vocabulary_are_refused(make: Any, tmp_path: Path, hugging_face: HuggingFace) -> None:
    request = make("llama", "trace")
    save_file({"input_ids": torch.tensor([[1, 211]])}, tmp_path / "beyond.safetensors")
    with pytest.raises(RequestError, match="211"):
        hugging_face.trace(replace(request, inputs=str(tmp_path / "beyond.safetensors")))
