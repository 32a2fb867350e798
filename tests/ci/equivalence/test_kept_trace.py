from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ci.equivalence.kept_trace import KeptBytes, KeptTrace
from ci.subjects import trace_files
from ci.subjects.trace_files import TraceWriter

GPU = "cuda"
FIRST, SECOND = torch.arange(6.0).reshape(1, 2, 3), torch.ones(1, 2, 5)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    writer = TraceWriter(tmp_path / "trace")
    writer.write_scope("embeddings", {"embeddings": FIRST})
    writer.write_scope("head", {"final_norm": FIRST, "logits": SECOND})
    writer.finish(ran={}, dtype="float32", device="cpu", seconds=0.0)
    return tmp_path / "trace"


@pytest.fixture(autouse=True)
def _gpu_in_cpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let safetensors read to the CPU what is asked for on a GPU."""
    monkeypatch.setattr(trace_files, "safe_open", lambda path, framework, device: safe_open(path, framework=framework))


def test_a_tensor_on_another_device_is_read_once(directory: Path) -> None:
    trace = KeptTrace(directory, KeptBytes(1000))
    first, again = (trace.tensor("logits", device=GPU) for _ in range(2))
    assert first is again
    assert trace.budget.left == 1000 - SECOND.nbytes


def test_what_exceeds_the_budget_of_all_traces_is_read_again(directory: Path) -> None:
    budget = KeptBytes(FIRST.nbytes)
    one, other = KeptTrace(directory, budget), KeptTrace(directory, budget)
    assert one.tensor("final_norm", device=GPU) is one.tensor("final_norm", device=GPU)
    assert other.tensor("final_norm", device=GPU) is not other.tensor("final_norm", device=GPU)
    assert budget.left == 0


def test_on_the_cpu_nothing_is_kept(directory: Path) -> None:
    trace = KeptTrace(directory, KeptBytes(1000))
    assert torch.equal(trace.tensor("logits"), SECOND)
    assert trace.budget.left == 1000
