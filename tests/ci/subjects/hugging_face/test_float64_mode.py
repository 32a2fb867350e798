"""A float64 run of Hugging Face computes nothing in float32, RoPE, softmax, norms and routers included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.mutation.tiny_models import TINY_MODELS, write_tiny_model
from ci.subjects.base import TraceRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.float64_mode import Float64Mode

if TYPE_CHECKING:
    from pathlib import Path


class RecordResults(TorchDispatchMode):
    """Keeps the dtype of every value that an operator computes in floating point."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() and not value.is_meta:
                self.dtypes.setdefault(str(func), set()).add(value.dtype)
        return result


@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_float64_run_computes_nothing_in_float32(tmp_path: Path, name: str) -> None:
    source = write_tiny_model(TINY_MODELS[name], tmp_path / "model", seed=0)
    ids = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    save_file({"input_ids": ids, "attention_mask": mask}, tmp_path / "inputs.safetensors")
    variant = {"attention": "eager", "batch": "together"}
    inputs, output = str(tmp_path / "inputs.safetensors"), str(tmp_path / "trace")
    with RecordResults() as recorded:
        HuggingFace().trace(TraceRequest(str(source), inputs, output, "float64", "cpu", variant, "all"))
    computed = {dtype for dtypes in recorded.dtypes.values() for dtype in dtypes}
    assert computed == {torch.float64}, {name: dtypes for name, dtypes in recorded.dtypes.items() if len(dtypes) > 1}


def test_float32_is_asked_for_in_many_ways() -> None:
    value = torch.ones(3, dtype=torch.float64)
    with Float64Mode():
        lifted = [
            value.float(),
            value.to(torch.float32),
            value.to(dtype=torch.float32),
            torch.softmax(value, dim=-1, dtype=torch.float32),
            torch.zeros(3, dtype=torch.float32),
        ]
        kept = value.to(torch.bfloat16)
    assert {tensor.dtype for tensor in lifted} == {torch.float64}
    assert kept.dtype == torch.bfloat16
    assert value.float().dtype == torch.float32
