"""Functions that ranks run in the tests: those of a new interpreter must be importable without pytest."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from ci.subjects.rank_process import Rank


def open_group(rank: Rank, *, seconds: float | None = None) -> None:
    """Join all ranks in torch's default group over gloo."""
    timeout = dt.timedelta(seconds=seconds or rank.collective_seconds)
    dist.init_process_group("gloo", init_method=rank.store, rank=rank.number, world_size=rank.count, timeout=timeout)


def close_group() -> None:
    """Leave the default group."""
    dist.destroy_process_group()


def add_ranks(rank: Rank, base: float) -> tuple[int, float, int]:
    """Sum base + rank over all ranks; return the rank from its variables, the sum, and the number of threads."""
    open_group(rank)
    total = torch.full((1,), base + rank.number)
    dist.all_reduce(total)
    close_group()
    return int(os.environ["RANK"]), float(total), torch.get_num_threads()
