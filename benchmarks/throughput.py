"""Throughput against `hf download` of the same files over the same loopback."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks._client import Client, run_client
from benchmarks._figure import Figure, show
from benchmarks._repositories import MODEL_ID, add_sparse, layers_for
from tests.standin.server import HubServer

ROUNDS = 5
SIZE = 10**9
SHARD_BYTES = 250 * 10**6
MEMORY = Path("/dev/shm")
"""Where it exists and has room the files are written to memory, so that the clients are measured and not the disk."""


def figures() -> list[Figure]:
    """Run both clients in turn and return the ratio of the medians.

    Every layer is kept, so that both write the same bytes.
    """
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * SIZE
    with tempfile.TemporaryDirectory(dir=MEMORY if in_memory else None) as scratch, HubServer() as hub:
        layers = layers_for(SIZE)
        total = add_sparse(hub, Path(scratch) / "repository", layers, SHARD_BYTES)
        seconds: dict[Client, list[float]] = {"fetch": [], "hf": []}
        for _ in range(ROUNDS):
            for client, taken in seconds.items():
                target = Path(scratch) / "target"
                taken.append(run_client(client, hub.endpoint, MODEL_ID, layers, target).seconds)
                shutil.rmtree(target)
    ours, theirs = (statistics.median(seconds[client]) for client in ("fetch", "hf"))
    where = "memory" if in_memory else "disk"
    how = f"{total / 1e9:.2f} GB in 4 shards to {where}: {ours:.1f} s against {theirs:.1f} s, medians of {ROUNDS}"
    return [Figure("throughput ÷ hf download's", theirs / ours, "≥", 1.0, how=how)]


if __name__ == "__main__":
    sys.exit(show(figures()))
