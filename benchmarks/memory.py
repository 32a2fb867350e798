"""Peak memory of a fetch over the bare import: it must not grow with the repository."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks._client import run_client
from benchmarks._figure import Figure, show
from benchmarks._repositories import MODEL_ID, add_sparse, layers_for
from tests.standin.server import HubServer

MB = 10**6


def figures() -> list[Figure]:
    """Fetch all layers of a repository of 1 GB and of one of 4 GB."""
    return [_measure(size) for size in (10**9, 4 * 10**9)]


def _measure(size: int) -> Figure:
    with tempfile.TemporaryDirectory() as scratch, HubServer() as hub:
        layers = layers_for(size)
        total = add_sparse(hub, Path(scratch) / "repository", layers, 10**9)
        cost = run_client("fetch", hub.endpoint, MODEL_ID, layers, Path(scratch) / "store")
    how = f"{total / 1e9:.2f} GB repository, all {layers} layers; import alone {cost.peak_before / MB:.0f} MB"
    return Figure("peak memory over the bare import", cost.memory / MB, "≤", 150, "MB", how)


if __name__ == "__main__":
    sys.exit(show(figures()))
