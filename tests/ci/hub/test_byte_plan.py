"""What a fetch would download: from headers alone, and by arithmetic for the registry's models."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from ci.hub.byte_plan import plan_bytes
from ci.hub.download_plan import TensorSource
from ci.hub.fetch import FetchRequest, fetch
from ci.hub.header import TensorInfo, count_tensor_bytes
from ci.hub.layers import make_choice
from ci.hub.model_config import parse_config
from ci.hub.slices import WHOLE, Slice
from ci.hub.weights import KeptSources, RemoteModel, find_model_layers, place_tensors
from ci.models import load_models, select_models
from tests.ci.hub.samples import CONFIG, MODEL, REQUEST, make_repository

if TYPE_CHECKING:
    from pathlib import Path

    from ci.settings import Settings
    from tests.standin.server import HubServer


def test_the_plan_is_what_a_fetch_downloads(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": (40_000, 8), **{f"model.layers.{n}.w": (20_000, 8) for n in range(5)}}
    hub.add(MODEL, make_repository(tmp_path / "m", tensors=tensors, shards=2, config={**CONFIG, "vocab_size": 40_000}))
    request = replace(REQUEST, slice=Slice(vocab=100))
    [plan] = plan_bytes([("m", request)], settings)
    assert (plan.layers, plan.layers_upstream, plan.problem) == (2, 5, "")
    assert plan.whole > 5 * 20_000 * 8 * 2
    assert plan.kept == fetch(REQUEST, settings).bytes_kept
    assert plan.sliced == fetch(request, settings).bytes_kept < plan.kept
    assert plan.received < 300_000 < plan.whole, "headers, listing and index alone"


def test_a_model_that_cannot_be_planned_says_why(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    hub.add(MODEL, make_repository(tmp_path / "m", config={**CONFIG, "odd": [1] * 5}))
    plans = plan_bytes([("a", REQUEST), ("b", FetchRequest("owner/none"))], settings)
    assert "odd looks as if" in plans[0].problem
    assert plans[1].problem
    assert [plan.sliced for plan in plans] == [0, 0]


# Sizes as in the config.json of each repository: hidden, intermediate, vocabulary, heads, key-value heads, layers,
# experts, biases of q, k and v, tied embeddings.
SHAPES: dict[str, tuple[int, int, int, int, int, int, int, bool, bool]] = {
    "smollm2": (576, 1536, 49152, 9, 3, 30, 0, False, True),
    "llama3-8b": (4096, 14336, 128256, 32, 8, 32, 0, False, False),
    "mistral": (4096, 14336, 32000, 32, 8, 32, 0, False, False),
    "mistral-v03": (4096, 14336, 32768, 32, 8, 32, 0, False, False),
    "mixtral": (4096, 14336, 32000, 32, 8, 32, 8, False, False),
    "qwen2-05b": (896, 4864, 151936, 14, 2, 24, 0, True, True),
    "qwen2-7b": (3584, 18944, 152064, 28, 4, 28, 0, True, False),
    "dream-7b": (3584, 18944, 152064, 28, 4, 28, 0, True, False),
    "dream-7b-hub": (3584, 18944, 152064, 28, 4, 28, 0, True, False),
}
PUBLISHED = {"mixtral": 93_405_585_408, "llama3-8b": 16_060_522_496, "mistral": 14_483_464_192, "smollm2": 269_030_016}
"""`total_size` of the index files, or the size of the tensors of the one file."""


def list_shapes(name: str) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocabulary, heads, kv_heads, layers, experts, biases, tied = SHAPES[name]
    width = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    shapes |= {} if tied else {"lm_head.weight": (vocabulary, hidden)}
    for layer in (f"model.layers.{n}" for n in range(layers)):
        for part, rows in (("q", hidden), ("k", width), ("v", width)):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (rows, hidden)
            shapes |= {f"{layer}.self_attn.{part}_proj.bias": (rows,)} if biases else {}
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for mlp in [f"{layer}.block_sparse_moe.experts.{n}" for n in range(experts)] or [f"{layer}.mlp"]:
            shapes |= {f"{mlp}.gate.weight": (inner, hidden), f"{mlp}.up.weight": (inner, hidden)}
            shapes[f"{mlp}.down.weight"] = (hidden, inner)
        shapes |= {f"{layer}.block_sparse_moe.gate.weight": (experts, hidden)} if experts else {}
    return shapes


def count_bytes(name: str, layers: int, part: Slice) -> int:
    """Bytes of the kept tensors in bfloat16, by the code that fetches them."""
    _, _, vocabulary, _, _, depth, experts, *_ = SHAPES[name]
    config: dict[str, Any] = {"model_type": name, "num_hidden_layers": depth, "vocab_size": vocabulary}
    config |= {"num_local_experts": experts, "num_experts_per_tok": 2} if experts else {}
    sources = []
    for tensor, shape in list_shapes(name).items():
        size = cast("int", count_tensor_bytes("BF16", shape))
        sources.append(TensorSource("model.safetensors", TensorInfo(tensor, "BF16", shape, 0, size), 0, size))
    parsed = parse_config(json.dumps(config), what=name)
    prefixes, choice = find_model_layers([s.tensor.name for s in sources], parsed), make_choice(layers)
    kept = [s for s in sources if prefixes.place(s.tensor.name, choice.positions)]
    remote = RemoteModel(cast("Any", None), cast("Any", None), parsed, cast("Any", None), part)
    return place_tensors(remote, KeptSources(choice, prefixes, tuple(kept), ())).size


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shapes_are_those_of_the_published_models(name: str) -> None:
    assert count_bytes(name, SHAPES[name][5], WHOLE) == PUBLISHED[name]


def test_the_sliced_registry_fits_a_free_cache() -> None:
    """The group "sliced" is what a workflow with `store: cache` asks for: `models: "@sliced"`."""
    known = load_models()
    parts = {model.name.removeprefix("sliced-"): model for model in select_models(known, ["@sliced"])}
    assert set(parts) == {model.name for model in select_models(known, ["@release"])}
    plain = {name for name, model in known.items() if model.checkpoint_format not in ("apriel2", "llava")}
    own_code = {name for name in plain if known[name].trust_remote_code and "refused" not in known[name].groups}
    assert set(parts) | own_code == set(SHAPES), "a new entry needs its sizes here"
    for name, part in parts.items():
        assert replace(known[name], name=part.name, groups=("sliced",), slice=part.slice, optional=True) == part
    whole = {name: count_bytes(name, 2, WHOLE) for name in SHAPES}
    sliced = {name: count_bytes(name, 2, part.slice) for name, part in parts.items()}
    assert whole["mixtral"] == 6_329_376_768
    assert sum(whole.values()) > 10e9
    assert sum(sliced.values()) <= 9e9, sliced
