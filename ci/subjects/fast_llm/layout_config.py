"""Chooses Fast-LLM's configuration for a parallel layout, and refuses by name what Fast-LLM does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.layouts import LAYOUTS, Layout
from ci.subjects.fast_llm.config import list_blocks
from ci.subjects.fast_llm.offer import LAYOUTS_OFFERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.rank_process import Rank

Updates = dict[tuple[str, ...], Any]

RECOMPUTE = ("none", "activation", "activation_and_input", "full")
"""What of an MLP Fast-LLM can compute again in the backward pass: fast_llm.functional.config.MLPRecomputeLevel"""


def find_layout(name: str) -> Layout:
    """Return a layout that Fast-LLM has. Raises UnsupportedError."""
    if name not in LAYOUTS_OFFERED:
        why = "it has no expert parallelism" if name in LAYOUTS and LAYOUTS[name].expert > 1 else "it is unknown"
        raise UnsupportedError(f"Fast-LLM: layout {name} is not offered: {why}; it has {', '.join(LAYOUTS_OFFERED)}")
    return LAYOUTS[name]


def make_layout_updates(layout: Layout, rank: Rank, device: str) -> Updates:
    """Return the config updates of a layout on one rank. Data parallelism is what the other degrees leave."""
    return {
        ("distributed", "world_size"): rank.count,
        ("distributed", "local_world_size"): rank.count,
        ("distributed", "rank"): rank.number,
        ("distributed", "tensor_parallel"): layout.tensor,
        ("distributed", "sequence_tensor_parallel"): layout.sequence_tensor,
        ("distributed", "pipeline_parallel"): layout.pipeline,
        ("distributed", "sequence_data_parallel"): layout.sequence_data,
        ("distributed", "use_cuda"): device != "cpu",
        ("distributed", "backend"): find_backend(device),
        ("distributed", "timeout"): rank.collective_seconds,
        ("multi_stage", "zero_stage"): layout.zero_stage,
    }


def make_training_updates(config: Any, auxiliary_loss: float, recompute: str) -> Updates:
    """Return the config updates of a training step: the balancing loss's coefficient, and what is recomputed."""
    if recompute not in RECOMPUTE:
        raise UnsupportedError(f"Fast-LLM has no recomputation {recompute!r}; it has {', '.join(RECOMPUTE)}")
    updates: Updates = {}
    for path, block in list_blocks(config):
        for field, value in (("recompute_level", recompute), ("auxiliary_loss_coefficient", auxiliary_loss)):
            updates |= {(*path, *mlp, field): value for mlp, part in _list_mlps(block) if hasattr(part, field)}
    return updates


def check_divisible(config: Any, layout: Layout) -> None:
    """Raise UnsupportedError for a model that the tensor ranks cannot divide evenly: Fast-LLM pads nothing."""
    sizes = {"vocabulary": config.base_model.embeddings.vocab_size}
    for _, block in list_blocks(config):
        heads = {"heads": "heads", "head_groups": "key and value heads"}
        sizes |= {word: getattr(block.mixer, name) for name, word in heads.items() if hasattr(block.mixer, name)}
        sizes["intermediate size"] = getattr(block.mlp, "intermediate_size", layout.tensor)
    for word, size in sizes.items():
        if size % layout.tensor:
            raise UnsupportedError(
                f"Fast-LLM, layout {layout.name}: {size} ({word}) is not divisible by {layout.tensor} tensor ranks"
            )


def find_backend(device: str) -> str:
    """Return the library of the collectives on a device."""
    return "gloo" if device == "cpu" else "nccl"


def round_up_predictions(predictions: int, layout: Layout) -> int:
    """Return a number of predictions of at least this many that the layout can divide evenly."""
    parts = layout.micro_sequences * layout.sequence_data * (layout.tensor if layout.sequence_tensor else 1)
    return -(-predictions // parts) * parts


def list_stage_sizes(layout: Layout, blocks: int) -> tuple[float, ...]:
    """List the layers per stage to try, until embeddings and head lie as the layout asks.

    Fast-LLM deals stages to pipeline ranks in turn, so an odd number of stages puts the head beside the embeddings.
    """
    return (1.0,) if not layout.separate_tied else tuple(float(size) for size in range(1, blocks + 3))


def _list_mlps(block: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield ("mlp",), block.mlp
    for name in ("dense", "routed"):
        if hasattr(block.mlp, name):
            yield ("mlp", name), getattr(block.mlp, name)
