"""What a fetch moves and asks: bytes ÷ bytes kept, and requests to the Hub's own origin."""

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


def figures() -> list[Figure]:
    """Two layers of a 4 GB repository, of the trained SmolLM2 and of a small Mixtral."""
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
    headers = sum(_header_bytes(hub, model_id, str(file)) for file in touched)
    moved = sum(r.sent for r in weights) - headers
    kept, asked = checkpoint.bytes_kept, len(hub.requests("hub"))
    how = f"{model_id}, 2 of {checkpoint.layers_upstream} layers, {kept / 1e6:.1f} MB kept"
    requests = f"{model_id}: {asked} requests for {len(touched)} shards"
    return [
        Figure("weights' bytes moved, without headers, ÷ kept", moved / kept, "≤", 1.001, how=how),
        Figure("requests to the Hub less shards touched", asked - len(touched), "≤", 5, how=requests),
    ]


def _header_bytes(hub: HubServer, model_id: str, path: str) -> int:
    commit = hub.catalog.repos[model_id].resolve("main")
    assert commit is not None
    with commit.files[path].source.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


if __name__ == "__main__":
    sys.exit(show(figures()))
