"""Models of every architecture that the installed transformers has, at small widths, whole and truncated, on disk.

A model is made from its config class's defaults: each number with the name of a size becomes a small one, and nothing
else changes. So the structure (which layer is of which kind, what is shared, what is fused) is the class's own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from ci.hub.download_plan import TensorSource, plan_output_files
from ci.hub.header import parse_header
from ci.hub.layers import make_choice
from ci.hub.model_config import parse_config
from ci.hub.slices import WHOLE, Slice, list_slice_edits
from ci.hub.truncation import truncate_config
from ci.hub.weights import KeptSources, RemoteModel, TensorSelection, choose_layers, find_model_layers, place_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.hub.layers import LayerRequest

TASKS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
SEQUENCES = ("SEQ_TO_SEQ_CAUSAL_LM", *TASKS)
IMAGES = ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "CAUSAL_LM")
ENCODER_DECODERS = {
    *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart"),
    "prophetnet",
}
"""Types whose published models have an encoder; a decoder alone is a class that nobody publishes."""
COMPOSITES = {"qwen3_5", "qwen3_5_moe", "qwen4_exp", "chameleon"}
"""Types of which the class for text alone takes another config."""
DEPTH = 8
MAX_PARAMETERS = 30_000_000
SIZES: tuple[tuple[str, int | None], ...] = (
    (r"token_(?:id|index)s?$", 100),
    (r"(?:^|_)(?:layers|depth|n_layer|blocks)$|_layers_|period|interval|pattern|step|offset|freq", None),
    (r"vocab", 128),
    (r"^(?:n_group|topk_group|moe_group\w*|num_expert_group|n_groups?|mamba_n_groups|num_groups)$", 1),
    (r"experts_per|top_?k$|moe_k$|top_k_experts", 2),
    (r"experts(?!.*(?:size|dim))", 4),
    (r"rank$", 8),
    (r"^rotary_dim$", 8),
    (r"num_key_value_heads|kv_heads|n_kv|key_heads", 2),
    (r"heads?$|n_head$|num_heads", 4),
    (r"head_dim|head_size|d_kv|d_head|head_width|kv_channels|attention_size", 16),
    (r"image_size", 56),
    (r"patch|kernel|stride|merge", None),
    (r"max_position|n_positions|seq_len|n_ctx|max_seq", 256),
    (r"intermediate|ffn|n_inner|d_ff|mlp_dim|inner_dim|mlp_hidden", 48),
    (r"state_size|ssm_state|d_state|chunk_size", 16),
    (r"size$|dim$|dims$|hidden|width|embd|d_model|channels|embed|units", 64),
)
"""The largest value of a number with such a name, the first match counts; None: unchanged."""
DERIVED = ("transformers_version", "dtype", "qk_head_dim", "time_step_limit")
"""Fields that the class derives from others, or writes in a form that it does not read."""
PER_LAYER = (
    *("layer_types", "mlp_layer_types", "layers_block_type", "per_layer_config", "kv_source_layers", "no_rope_layers"),
    *("moe_layers", "attention_layers", "num_attention_heads_per_layer"),
)
"""Fields that the class derives from the depth."""
DEPTHS = (
    "num_blocks",
    "num_hidden_layers",
    "layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "encoder_layers",
    "num_decoder_layers",
)
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2, "mamba_d_ssm": 128, "mamba_n_groups": 1}
HEAD = {"head_dim": 16}
EXTRA: dict[str, dict[str, Any]] = {
    "bamba": MAMBA,
    "falcon_h1": MAMBA,
    "granitemoehybrid": MAMBA,
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1},
    "hunyuan_v1_dense": HEAD,
    "hunyuan_v1_moe": HEAD,
    "hunyuan_vl": HEAD,
    "ministral": HEAD,
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "glm5_next": {"num_key_value_heads": 4},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
    "minimax_m3_vl": {
        "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 5,
        "layer_types": ["full_attention"] * 3 + ["minimax_m3_sparse"] * 5,
    },
    "deepseek_v4": {"head_dim": 16, "partial_rotary_factor": 0.5, "qk_rope_head_dim": None, "rope_parameters": None},
    "zamba2": {
        "n_mamba_heads": 8,
        "mamba_headdim": 16,
        "mamba_expand": 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid", "mamba"],
        "hybrid_layer_ids": [2, 4, 6],
    },
    "reformer": {"is_decoder": True},
    "xlnet": {"d_head": 16},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "dots1": {"head_dim": 16},
}
"""What a model type needs besides: values that must fit each other."""


GEMMA4: dict[str, Any] = {
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "num_hidden_layers": 12,
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 8,
    "max_position_embeddings": 256,
}
"""The structure of Gemma-4 26B and 31B: no embeddings for each layer, no shared keys and values (tf:gemma4)."""
COMPLETE = {"gemma4_text": GEMMA4, "gemma4_unified_text": GEMMA4}
"""All arguments of a config class whose defaults depend on each other."""
M_ROPE = (
    *("glm46v", "glm4v", "glm4v_moe", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl"),
    "qwen2_vl",
)
SECTIONS = {name: [2, 1, 1] if name == "glm4v_moe" else [4, 2, 2] for name in M_ROPE}
"""How M-RoPE divides half a head, where the class has numbers of its own for it."""


def list_model_types() -> list[str]:
    """Return the model types that generate text."""
    return sorted({name for task in TASKS for name in _names(task)})


def _names(task: str) -> dict[str, Any]:
    from transformers.models.auto import modeling_auto

    return cast("dict[str, Any]", getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES"))


def get_class(model_type: str) -> Any:
    import transformers

    for task in SEQUENCES if model_type in ENCODER_DECODERS else IMAGES if model_type in COMPOSITES else TASKS:
        if name := _names(task).get(model_type):
            return getattr(transformers, name[0] if isinstance(name, tuple | list) else name)
    raise KeyError(model_type)


def shrink(value: Any, key: str = "") -> Any:
    """Return a config with small sizes and a depth of at most 8."""
    if isinstance(value, dict):
        small = {name: shrink(item, name) for name, item in value.items() if name not in DERIVED}
        if "qk_rope_head_dim" in small:
            small |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
            small |= {"num_key_value_heads": 4} if "num_key_value_heads" in small else {}
            small.pop("head_dim", None)
        return small
    if isinstance(value, bool) or not isinstance(value, int) or value <= 2:
        return value
    for pattern, size in SIZES:
        if re.search(pattern, key):
            return value if size is None else min(value, size + (len(key) % 20 if "token" in key else 0))
    return value


def set_depth(config: dict[str, Any], depth: int, *, text: bool = True) -> None:
    """Set the depth of the text model; lists that the class derives from it go."""
    for key, value in list(config.items()):
        if isinstance(value, dict):
            set_depth(value, depth, text=bool(re.search("text|llm|language|decoder|thinker", key)))
        elif text and key in PER_LAYER:
            del config[key]
        elif text and key in DEPTHS and isinstance(value, int):
            config[key] = min(value, depth)


def make_config(model_type: str, depth: int = DEPTH) -> Any:
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    if model_type in COMPLETE:
        return kind(**COMPLETE[model_type], attn_implementation="eager")
    values = shrink(json.loads(kind().to_json_string(use_diff=False)))
    set_depth(values, depth)
    text = values["text_config"] if isinstance(values.get("text_config"), dict) else values
    text |= EXTRA.get(model_type, {})
    if model_type in SECTIONS:
        values.get("text_config", values).setdefault("rope_parameters", {})["mrope_section"] = SECTIONS[model_type]
    config = kind.from_dict(values)
    config._attn_implementation = "eager"
    return config


def make_model(model_type: str, directory: Path, config: Any = None) -> Any:
    """Make a whole model with random weights, every tensor of them distinct, and save it."""
    import torch

    config = config or make_config(model_type)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in get_class(model_type)(config).parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count} parameters are too many")
    torch.manual_seed(0)
    model = get_class(model_type)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model


def truncate(directory: Path, target: Path, layers: LayerRequest, part: Slice = WHOLE) -> TensorSelection:
    """Truncate a checkpoint on disk with the code that truncates one on the Hub."""
    config = parse_config((directory / "config.json").read_text(), what=directory.name)
    sources = {source.tensor.name: source for source in _read_sources(directory)}
    prefixes = find_model_layers(sources, config)
    tensors = {name: source.tensor for name, source in sources.items()}
    choice = choose_layers(prefixes, config, tensors) if layers == "auto" else make_choice(layers)
    kept = [source for name, source in sources.items() if prefixes.place(name, choice.positions) is not None]
    remote = RemoteModel(cast("Any", None), cast("Any", None), config, cast("Any", None), part)
    selection = place_tensors(remote, KeptSources(choice, prefixes, tuple(kept), tuple(sources)))
    target.mkdir()
    (target / "config.json").write_text(truncate_config(config, choice.kept, list_slice_edits(config, part)))
    for output in plan_output_files(selection.sources, max_file_size=10**12):
        with (target / output.name).open("wb") as file:
            file.write(output.header)
            for placed in output.tensors:
                with (directory / placed.source.shard).open("rb") as shard:
                    shard.seek(placed.source.begin)
                    file.write(shard.read(placed.size))
    return selection


def _read_sources(directory: Path) -> Iterator[TensorSource]:
    for path in sorted(directory.glob("*.safetensors")):
        content = path.read_bytes()
        header = parse_header(content, len(content), what=path.name)
        for tensor in header.tensors:
            yield TensorSource(path.name, tensor, header.data_start + tensor.begin, header.data_start + tensor.end)


def load(model_type: str, directory: Path) -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint; return it, and what was missing or too much."""
    model, info = get_class(model_type).from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager", dtype="float32"
    )
    problems = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return model.eval(), {kind: listed for kind, listed in problems.items() if listed}


def run_layers(model: Any, depth: int, layer: int, ids: Any) -> dict[str, Any]:
    """Run a model, and return the output of one layer of each list of `depth` layers, by the list's name."""
    import torch

    outputs: dict[str, Any] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and _is_stack(name):

            def keep(_: Any, __: Any, output: Any, name: str = name) -> None:
                outputs[name] = output[0] if isinstance(output, tuple | list) else output

            hooks.append(module[layer].register_forward_hook(keep))
    with torch.no_grad():
        decoder = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
        outputs["logits"] = getattr(model(input_ids=ids, use_cache=False, **decoder), "logits", None)
    for hook in hooks:
        hook.remove()
    return outputs


def _is_stack(name: str) -> bool:
    from ci.hub.truncation_rules import OTHER_MODALITY

    return not OTHER_MODALITY.search(name) and name.rsplit(".", 1)[-1] in (
        "layers",
        "layer",
        "h",
        "blocks",
        "block",
        "decoder",
        "layer_norm2",  # the last part of a layer of XLM
    )
