from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open

from ci.equivalence.kept_trace import KeptMemory, KeptTrace
from ci.subjects import trace_files
from ci.subjects.trace_files import TraceWriter

if TYPE_CHECKING:
    from pathlib import Path

GPU = "cuda"
FIRST, SECOND = torch.arange(6.0).reshape(1, 2, 3), torch.ones(1, 2, 5)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    writer = TraceWriter(tmp_path / "trace")
    writer.write_scope("embeddings", {"embeddings": FIRST})
    writer.write_scope("head", {"final_norm": FIRST, "logits": SECOND})
    writer.finish(ran={}, dtype="float32", device="cpu", seconds=0.0)
    return tmp_path / "trace"


def _open_on_cpu(path: Path, *, framework: str, **_: str) -> Any:
    return safe_open(path, framework=framework)


@pytest.fixture(autouse=True)
def _gpu_in_cpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let safetensors read to the CPU what is asked for on a GPU."""
    monkeypatch.setattr(trace_files, "safe_open", _open_on_cpu)


def test_a_tensor_on_a_gpu_is_read_once(directory: Path) -> None:
    trace = KeptTrace(directory, KeptMemory(1000))
    first, again = (trace.tensor("logits", device=GPU) for _ in range(2))
    assert first is again
    assert torch.equal(first, SECOND)


def test_kept_tensors_of_all_dtypes_do_not_overlap() -> None:
    memory = KeptMemory(1000)
    tensors = [
        torch.full((3, 3), value, dtype=dtype)
        for value, dtype in enumerate([torch.bool, torch.int64, torch.float64, torch.bfloat16])
    ]
    kept = [memory.keep(tensor) for tensor in tensors]
    assert all(
        one is not None and one.dtype == tensor.dtype and torch.equal(one, tensor)
        for one, tensor in zip(kept, tensors, strict=True)
    )


def test_what_exceeds_the_memory_of_all_traces_is_read_again(directory: Path) -> None:
    memory = KeptMemory(FIRST.nbytes)
    one, other = KeptTrace(directory, memory), KeptTrace(directory, memory)
    assert one.tensor("final_norm", device=GPU) is one.tensor("final_norm", device=GPU)
    again = other.tensor("final_norm", device=GPU)
    assert again is not other.tensor("final_norm", device=GPU)
    assert torch.equal(again, FIRST)


def test_on_the_cpu_nothing_is_kept(directory: Path) -> None:
    trace = KeptTrace(directory, KeptMemory.beside_models("cpu", 10**9))
    assert trace.tensor("logits") is not trace.tensor("logits")
    assert KeptTrace(directory, KeptMemory(1000)).tensor("logits") is not trace.tensor("logits")
