"""Throughput against `hf download` of the same files over the same loopback."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks._client import Client, Cost, run_client
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
        costs: dict[Client, list[Cost]] = {"fetch": [], "hf": []}
        for _ in range(ROUNDS):
            for client, taken in costs.items():
                target = Path(scratch) / "target"
                taken.append(run_client(client, hub.endpoint, MODEL_ID, layers, target))
                shutil.rmtree(target)
    ours, theirs = (statistics.median(cost.seconds for cost in costs[client]) for client in ("fetch", "hf"))
    busy, their_busy = (statistics.median(cost.cpu for cost in costs[client]) for client in ("fetch", "hf"))
    where = f"{total / 1e9:.2f} GB in 4 shards to {'memory' if in_memory else 'disk'}"
    how = f"{where}: {ours:.1f} s against {theirs:.1f} s, medians of {ROUNDS}, load average {os.getloadavg()[0]:.0f}"
    cpu_how = f"{busy:.1f} s against {their_busy:.1f} s; a fetch hashes each byte twice, hf download never"
    return [
        Figure("throughput ÷ hf download's", theirs / ours, "≥", 1.0, how=how),
        Figure("processor time of a fetch ÷ hf download's", busy / their_busy, "≤", 1.5, how=cpu_how),
    ]


if __name__ == "__main__":
    sys.exit(show(figures()))
