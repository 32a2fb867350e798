"""Each entry of the group "formats", truncated as registered: a small model of its structure, run before and after.

Depths, kinds of layers and ratios of heads are the published models', as each case says where they are known from;
widths are ours, and no config here is the published file. Models whose code travels with them run the stand-in's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.models import load_models, select_models
from ci.subjects.base import TraceRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import layer_of
from tests.ci.hub import tiny_models
from tests.standin.models import build
from tests.standin.own_models import DREAM, HYBRID, describe_stochastic, open_side, write_own_model
from tests.standin.recipes import GEMMA4, GEMMA4_31B, LLAMA3, PIXTRAL, Recipe

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"hidden_size": 48, "intermediate_size": 40, "vocab_size": 67, "bos_token_id": 1, "eos_token_id": 2}
FIVE_TO_ONE = [*["sliding_attention"] * 5, "full_attention"]
GEMMA = {**GEMMA4, **SMALL, "head_dim": 12, "global_head_dim": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
GEMMA |= {"num_global_key_value_heads": 1, "moe_intermediate_size": 24}
SUPERNET = describe_stochastic("attention")
IMPORTANCE = (
    *(47, 39, 24, 36, 31, 43, 32, 20, 38, 37, 30, 33, 22, 23, 40, 42, 44, 35, 41, 27, 21, 46, 45, 49, 25, 34, 29, 28),
    *(19, 26),
)
"""The first 30 layers that became Mamba, by `layer_importance` of Fast-LLM's
make_hybrid_checkpoint_with_importance_15b_mil.py; arXiv 2511.02651: Apriel-H1-15b-Thinker-SFT has 30 of 50."""
LAYOUT = ["m2" if layer in IMPORTANCE else "t" for layer in range(50)]


@dataclass(frozen=True)
class Structure:
    """A model's structure: what is changed in the stand-in's config of `upstream`, or all of a config with own code.

    `kept` is how many layers the registered truncation keeps, `source` where depth and kinds of layers are known from.
    """

    kept: int
    source: str
    upstream: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def llava(depth: int, **text: Any) -> dict[str, Any]:
    """Pixtral's tower before Mistral of this depth."""
    small = {**PIXTRAL["text_config"], **SMALL, "num_hidden_layers": depth, "head_dim": 16, **text}  # type: ignore[dict-item]
    return {**PIXTRAL, "text_config": small}


STRUCTURES = {
    "llama32-1b": Structure(
        2,
        "config.json of meta-llama/Llama-3.2-1B: 16 layers, 4 heads to a key, factor 32, tied",
        "Llama-3.1-8B",
        {
            **SMALL,
            "num_hidden_layers": 16,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "rope_scaling": {**LLAMA3, "factor": 32.0},
            "tie_word_embeddings": True,
        },
    ),
    "mistral-nemo": Structure(
        2,
        "config.json of mistralai/Mistral-Nemo-Base-2407: 40 layers, head_dim 128 where hidden / heads is 160",
        "Mistral-7B-v0.3",
        {**SMALL, "num_hidden_layers": 40, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 4},
    ),
    "mixtral-8x22b": Structure(
        2,
        "config.json of mistralai/Mixtral-8x22B-v0.1: 56 layers, 6 heads to a key, 8 experts",
        "Mixtral-8x7B-v0.1",
        {**SMALL, "num_hidden_layers": 56, "num_attention_heads": 6, "num_key_value_heads": 1},
    ),
    "gemma4-26b-a4b": Structure(
        6,
        "tf:gemma4, Gemma-4 26B: 30 layers, every sixth with full attention, experts in each",
        "gemma-4-26B-A4B",
        {**GEMMA, "num_hidden_layers": 30, "layer_types": FIVE_TO_ONE * 5},
    ),
    "gemma4-31b": Structure(
        6,
        "tf:gemma4, Gemma-4 31B: 60 layers, every sixth with full attention, no experts, its value the key",
        "gemma-4-26B-A4B",
        {**GEMMA, **GEMMA4_31B, "num_hidden_layers": 60, "layer_types": FIVE_TO_ONE * 10},
    ),
    "pixtral-12b": Structure(2, "transformers' LlavaConfig of pixtral-12b: 40 layers", "pixtral-12b", llava(40)),
    "apriel15-15b": Structure(2, "arXiv 2510.01141: Pixtral-12B upscaled to 48 layers", "pixtral-12b", llava(48)),
    "dream-7b": Structure(
        2,
        "configuration_dream.py: Qwen2.5-7B's 28 layers",
        config={**DREAM, "num_hidden_layers": 28, "vocab_size": 331},
    ),
    "apriel-h1-15b": Structure(
        20, "arXiv 2511.02651 and IMPORTANCE", config={**HYBRID, "num_hidden_layers": 50, "hybrid_block_layout": LAYOUT}
    ),
    "superapriel-15b": Structure(
        2,
        "arXiv 2604.19877: 48 layers of four mixers each; the text model alone",
        config={**SUPERNET, "decoder": {**SUPERNET["decoder"], "num_blocks": 48}},
    ),
}
SAME = {"dream-7b-hub": "dream-7b", "superapriel-15b-instruct": "superapriel-15b", "apriel16-15b": "apriel15-15b"}
"""Entries of the same weights, or of the same structure, as another one."""
QUICK = ("apriel-h1-15b", "mistral-nemo")


def test_each_entry_has_a_structure() -> None:
    further = {model.name for model in select_models(load_models(), ["@formats"])}
    assert {*STRUCTURES, *SAME} == further


def write_whole(name: str, structure: Structure, directory: Path) -> Path:
    if not structure.upstream:
        return write_own_model(dict(structure.config), directory)
    recipe = Recipe(f"stand-in/{name}", structure.upstream, structure.config, files=1, dtype="float32")
    return build(recipe, directory)


def trace(side: HuggingFace, checkpoint: Path, inputs: Path) -> TraceReader:
    output = checkpoint.with_name(f"{checkpoint.name}.trace")
    side.trace(TraceRequest(str(checkpoint), str(inputs), str(output), "float32", capture="blocks"))
    return TraceReader(output)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in STRUCTURES]
)
def test_the_registered_layers_are_the_first_of_the_whole(name: str, tmp_path: Path) -> None:
    structure, entry = STRUCTURES[name], load_models()[name]
    whole, cut = write_whole(name, structure, tmp_path / "whole"), tmp_path / "cut"
    selection = tiny_models.truncate(whole, cut, entry.layer_request)
    assert selection.choice.layers == structure.kept
    stored = {key: tensor for file in whole.glob("*.safetensors") for key, tensor in load_file(file).items()}
    kept = {key: tensor for file in cut.glob("*.safetensors") for key, tensor in load_file(file).items()}
    assert kept.keys() < stored.keys()
    assert all(tensor.equal(stored[key]) for key, tensor in kept.items())
    ids = torch.randint(3, 67, (1, 40), generator=torch.Generator().manual_seed(1))
    save_file({"input_ids": ids}, tmp_path / "inputs.safetensors")
    with HuggingFace() if structure.upstream else open_side() as side:
        traces = [trace(side, checkpoint, tmp_path / "inputs.safetensors") for checkpoint in (cut, whole)]
    layers = [key for key in traces[0] if layer_of(key) is not None]
    assert len(layers) == structure.kept
    for key in ("embeddings", *layers):
        torch.testing.assert_close(traces[0].tensor(key), traces[1].tensor(key), rtol=1e-6, atol=1e-7)
