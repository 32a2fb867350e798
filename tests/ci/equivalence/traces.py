"""Synthetic traces: tensors from a dict, written as a subject writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ci.subjects.trace_files import TraceReader, TraceWriter
from ci.tensor_names import scope_of

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import DType

Tensors = dict[str, torch.Tensor]
B, T, HIDDEN, EXPERTS, TOP, VOCABULARY = 2, 6, 8, 4, 2, 11


def tensors(*, blocks: int = 2, moe: bool = False, seed: int = 0) -> Tensors:
    """A model's captures in float64: what a float64 run would write."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(B, T, *shape, generator=generator, dtype=torch.float64)

    tensors = {"embeddings": drawn(HIDDEN)}
    for i in range(blocks):
        tensors |= {f"decoder.{i}.{name}": drawn(HIDDEN) for name in ("norm_1", "mixer.context", "mixer")}
        if moe:
            logits = drawn(EXPERTS)
            tensors[f"decoder.{i}.mlp.router_logits"] = logits
            tensors[f"decoder.{i}.mlp.router_top_experts"] = logits.topk(TOP, dim=-1).indices
        tensors |= {f"decoder.{i}.mlp": drawn(HIDDEN), f"decoder.{i}": drawn(HIDDEN)}
    return tensors | {"final_norm": drawn(HIDDEN), "logits": drawn(VOCABULARY)}


def noisy(right: Tensors, *, noise: float = 1e-7, seed: int = 1) -> Tensors:
    """The same in float32, with relative noise: what a right implementation would write."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor * (1 + noise * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))).float()
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in right.items()
    }


def trace(path: Path, tensors: Tensors, *, dtype: DType = "float32", not_captured: tuple[str, ...] = ()) -> TraceReader:
    """Write `tensors` as a trace directory and open it."""
    writer = TraceWriter(path)
    for scope in dict.fromkeys(map(scope_of, tensors)):
        writer.write_scope(scope, {name: tensor for name, tensor in tensors.items() if scope_of(name) == scope})
    writer.finish(ran={}, dtype=dtype, device="cpu", seconds=0.0, not_captured=not_captured)
    return TraceReader(path)
