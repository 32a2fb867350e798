"""Makes Fast-LLM's model of one rank in a layout: its process groups, and its part of the layers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.subjects.fast_llm.config import read_model_config
from ci.subjects.fast_llm.layout_config import check_divisible, find_backend, list_stage_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.layouts import Layout
    from ci.subjects.rank_process import Rank


@contextmanager
def open_process_groups(rank: Rank, device: str) -> Iterator[None]:
    """Make Fast-LLM's pool of process groups, which its models find by themselves, over the ranks' own store.

    Fast-LLM reads rank and world size from the environment when it is imported, so a fork sets them anew.
    """
    import torch
    from fast_llm.engine.distributed.config import DistributedBackend, DistributedConfig
    from fast_llm.engine.distributed.distributed import ProcessGroupPool

    DistributedConfig.default_rank = rank.number
    DistributedConfig.default_world_size = DistributedConfig.default_local_world_size = rank.count
    with ProcessGroupPool(
        rank.number,
        rank.count,
        rank.count,
        rank.collective_seconds,
        init_method=rank.store,
        backend=DistributedBackend(find_backend(device)),
        device=torch.device("cpu" if device == "cpu" else f"cuda:{rank.number}"),
    ):
        yield


def build_model(
    layout: Layout, updates: dict[tuple[str, ...], Any], checkpoint: Path, *, mode: Any, optimizer_states: bool
) -> Any:
    """Make an empty model in a proved layout, with room for optimizer state if asked for.

    Raises UnsupportedError where embeddings and head cannot be laid on different ranks.
    """
    from fast_llm.engine.distributed.distributed import Distributed
    from fast_llm.engine.optimizer.config import OptimizerConfig

    base, states = read_model_config(checkpoint), OptimizerConfig.state_names() if optimizer_states else ()
    check_divisible(base, layout)
    for size in list_stage_sizes(layout, base.base_model.decoder.num_blocks):
        config = base.to_copy({**updates, ("multi_stage", "layers_per_stage"): size})
        model = config.get_model_class()(config, optimizer_state_names=states)
        placement = list(model._stage_pipeline_ranks.values())
        if not layout.separate_tied or placement[0] != placement[-1]:
            print(f"pipeline rank of each stage: {placement}, layers per stage: {size:g}")
            model.setup(Distributed(config.distributed), mode=mode)
            return model
    raise UnsupportedError(f"Fast-LLM, layout {layout.name}: no split lays embeddings and head on different ranks")


def is_writer(model: Any) -> bool:
    """Tell whether this rank is the first of its pipeline stage: all of the stage have the same full tensors."""
    distributed = model.config.distributed
    return bool(distributed.tensor_rank == 0 and distributed.data_rank == 0)


def is_absent(block: Any) -> bool:
    """Tell whether a block lies on another pipeline rank: its parameters have no storage here."""
    return any(parameter.device.type == "meta" for parameter in block.parameters())
