"""What a fetch transfers: bytes moved ÷ bytes kept, and the number of requests to the Hub."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks._figure import Figure, show
from benchmarks._repositories import MODEL_ID, add_sparse, layers_for
from ci.hub.fetch import Checkpoint, FetchRequest, fetch
from ci.settings import Settings
from tests.standin.library import add_generated, add_trained
from tests.standin.server import HubServer
from tests.standin.trained import ALIAS

ESSENTIAL = {"config.json", "model.safetensors.index.json"}
"""Every other small file (tokenizer, generation config) is a companion: one request each, as the Hub has no batch.

With the list of files, config.json and the index that makes six beyond the shards, five where one shard needs no index.
"""

PROBE = 128 * 1024
"""Bytes at a shard's start that count as reading its header, whose length is not known before."""


def figures() -> list[Figure]:
    """Fetch two layers of a 4 GB repository, of SmolLM2 and of a small Mixtral."""
    with tempfile.TemporaryDirectory() as scratch, HubServer() as hub:
        add_sparse(hub, Path(scratch) / "repository", layers_for(4 * 10**9), 10**9)
        add_trained(hub)
        add_generated(hub)
        settings = Settings(cache=Path(scratch) / "store", endpoint=hub.endpoint)
        measured = []
        for model_id in (MODEL_ID, ALIAS, "mistralai/Mixtral-8x7B-v0.1"):
            hub.log.clear()
            measured += _figures(hub, model_id, fetch(FetchRequest(model_id, 2), settings))
        return measured


def _figures(hub: HubServer, model_id: str, checkpoint: Checkpoint) -> list[Figure]:
    weights = [r for r in hub.requests("cdn", "GET") if (r.file or "").endswith(".safetensors")]
    touched = {r.file for r in weights}
    probes = sum(min(r.sent, PROBE) for r in weights if (r.range or "").startswith("bytes=0-"))
    moved = sum(r.sent for r in weights) - probes
    companions = {r.file for r in hub.requests("hub", "GET") if r.file and r.file not in touched | ESSENTIAL}
    kept, asked = checkpoint.bytes_kept, len(hub.requests("hub"))
    size = f"{kept / 1e6:.1f} MB kept, {probes / 1e3:.0f} kB for {len(touched)} headers"
    how = f"{model_id}, 2 of {checkpoint.layers_upstream} layers: {size}"
    requests = f"{model_id}: {asked} requests; {len(touched)} shards touched, {len(companions)} companion files"
    return [
        Figure("weights' bytes moved, besides headers, ÷ kept", moved / kept, "≤", 1.001, how=how),
        Figure("requests to the Hub beyond one a touched shard", asked - len(touched), "≤", 5, how=requests),
    ]


if __name__ == "__main__":
    sys.exit(show(figures()))
