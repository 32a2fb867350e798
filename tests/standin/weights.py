"""Generated checkpoints: names and shapes as on the Hub's disks, non-degenerate values, sharded safetensors.

The recipe needs no training and hides no bug: linear weights ~ N(0, 1/fan_in), norms 1 + 0.3 N, biases 0.3 N,
embeddings N(0, 1). Default initialisation (norms of one, biases of zero) cannot tell a swapped norm from a right one.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Shapes = dict[str, tuple[int, ...]]
DTYPES = {"bfloat16": (torch.bfloat16, "BF16"), "float16": (torch.float16, "F16"), "float32": (torch.float32, "F32")}


def tensor_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of upstream's checkpoint for a config.json, in model order."""
    if "vision_config" in config:
        return _llava_shapes(config)
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    layer_shapes = _gemma4_shapes if config["model_type"] == "gemma4_text" else _layer_shapes
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in layer_shapes(config, layer).items()}
    shapes["model.norm.weight"] = (hidden,)
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocab, hidden)}


def _layer_shapes(config: Mapping[str, Any], _: int) -> Shapes:
    mlp = _expert_shapes(config) if "num_local_experts" in config else _mlp_shapes(config)
    norms = {f"{norm}_layernorm.weight": (config["hidden_size"],) for norm in ("input", "post_attention")}
    return {**_attention_shapes(config), **mlp, **norms}


def _llava_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of a Pixtral tower, a projector and a text model: transformers, modeling_llava.py."""
    text, vision = {"tie_word_embeddings": False, **config["text_config"]}, config["vision_config"]
    size, inner, width = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    patch, channels = vision["patch_size"], vision["num_channels"]
    shapes: Shapes = {
        "vision_tower.patch_conv.weight": (size, channels, patch, patch),
        "vision_tower.ln_pre.weight": (size,),
    }
    for layer in range(vision["num_hidden_layers"]):
        prefix = f"vision_tower.transformer.layers.{layer}."
        shapes |= {f"{prefix}attention.{name}_proj.weight": (size, size) for name in "qkvo"}
        shapes |= {f"{prefix}feed_forward.{name}_proj.weight": (inner, size) for name in ("gate", "up")}
        shapes |= {f"{prefix}feed_forward.down_proj.weight": (size, inner)}
        shapes |= {f"{prefix}{name}_norm.weight": (size,) for name in ("attention", "ffn")}
    for number, columns in ((1, size), (2, width)):
        shapes[f"multi_modal_projector.linear_{number}.weight"] = (width, columns)
        if config.get("multimodal_projector_bias", True):
            shapes[f"multi_modal_projector.linear_{number}.bias"] = (width,)
    return shapes | {f"language_model.{name}": shape for name, shape in tensor_shapes(text).items()}


def _gemma4_shapes(config: Mapping[str, Any], layer: int) -> Shapes:
    """Return one layer of Gemma 4's text model: transformers, modeling_gemma4.py."""
    hidden, full = config["hidden_size"], config["layer_types"][layer] == "full_attention"
    shared = full and config["attention_k_eq_v"]
    kv_heads = (shared and config["num_global_key_value_heads"]) or config["num_key_value_heads"]
    head = config["global_head_dim" if full else "head_dim"]
    attention = _attention_shapes({**config, "head_dim": head, "num_key_value_heads": kv_heads})
    if shared:
        del attention["self_attn.v_proj.weight"]
    shapes = {**attention, "self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    shapes |= {**_mlp_shapes(config), "layer_scalar": (1,)}
    norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    if config["enable_moe_block"]:
        experts, inner = config["num_experts"], config["moe_intermediate_size"]
        shapes |= {"router.proj.weight": (experts, hidden), "router.scale": (hidden,)}
        shapes |= {"router.per_expert_scale": (experts,), "experts.gate_up_proj": (experts, 2 * inner, hidden)}
        shapes["experts.down_proj"] = (experts, hidden, inner)
    shapes |= {f"{norm}_layernorm.weight": (hidden,) for norm in norms}
    if config["enable_moe_block"]:
        numbered = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
        shapes |= {f"{norm}.weight": (hidden,) for norm in numbered}
    return shapes


def _attention_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    rows = {"q": heads * head, "k": config["num_key_value_heads"] * head, "v": config["num_key_value_heads"] * head}
    shapes: Shapes = {f"self_attn.{n}_proj.weight": (size, hidden) for n, size in rows.items()}
    shapes["self_attn.o_proj.weight"] = (hidden, heads * head)
    if config.get("attention_bias") or config["model_type"] == "qwen2":
        shapes |= {f"self_attn.{n}_proj.bias": (size,) for n, size in rows.items()}
    if config.get("attention_bias"):
        shapes["self_attn.o_proj.bias"] = (hidden,)
    return shapes


def _mlp_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {f"mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
    shapes["mlp.down_proj.weight"] = (hidden, inner)
    if config.get("mlp_bias"):
        shapes |= {f"mlp.{n}_proj.bias": (size,) for n, size in (("gate", inner), ("up", inner), ("down", hidden))}
    return shapes


def _expert_shapes(config: Mapping[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {"block_sparse_moe.gate.weight": (config["num_local_experts"], hidden)}
    for expert in range(config["num_local_experts"]):
        prefix = f"block_sparse_moe.experts.{expert}."
        shapes |= {prefix + "w1.weight": (inner, hidden), prefix + "w2.weight": (hidden, inner)}
        shapes[prefix + "w3.weight"] = (inner, hidden)
    return shapes


def make_tensor(name: str, shape: tuple[int, ...], seed: int, device: str = "cpu") -> torch.Tensor:
    """Make a float32 tensor from its name and the seed; equal on devices of one kind."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    noise = torch.empty(shape, device=device).normal_(generator=generator)
    if name.endswith("bias"):
        return noise.mul_(0.3)
    if "norm" in name or "ln_pre" in name or name.endswith(("scale", "scalar")):
        return noise.mul_(0.3).add_(1)
    return (
        noise
        if "embed_tokens" in name
        else noise.div_(math.sqrt(math.prod(shape[1:]) if len(shape) == 4 else shape[-1]))
    )


def shards(shapes: Shapes, dtype: str, shard_bytes: int) -> list[Shapes]:
    """Fill shards in model order up to `shard_bytes`, as save_pretrained does."""
    size = DTYPES[dtype][0].itemsize
    filled: list[Shapes] = [{}]
    used = 0
    for name, shape in shapes.items():
        length = math.prod(shape) * size
        if filled[-1] and used + length > shard_bytes:
            filled.append({})
            used = 0
        filled[-1][name] = shape
        used += length
    return filled


def write_checkpoint(
    directory: Path, shapes: Shapes, read: Callable[[str], torch.Tensor], *, dtype: str, shard_bytes: int
) -> None:
    """Write safetensors shards and their index, with one tensor in memory at a time."""
    parts = shards(shapes, dtype, shard_bytes)
    if len(parts) == 1:
        return _write_shard(directory / "model.safetensors", parts[0], read, dtype)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        _write_shard(directory / file, part, read, dtype)
        weight_map |= dict.fromkeys(part, file)
    total = sum(math.prod(shape) for shape in shapes.values()) * DTYPES[dtype][0].itemsize
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return None


def _write_shard(path: Path, part: Shapes, read: Callable[[str], torch.Tensor], dtype: str) -> None:
    """Write one safetensors file, sorted by name as the library sorts tensors of one dtype."""
    kind = DTYPES[dtype][0]
    ordered = dict(sorted(part.items()))
    with path.open("wb") as file:
        file.write(shard_header(ordered, dtype))
        for name, shape in ordered.items():
            tensor = read(name).to("cpu", kind).contiguous()
            if tensor.shape != shape:
                raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape}")
            file.write(tensor.view(torch.uint8).reshape(-1).numpy().data if shape else b"")


def shard_header(ordered: Shapes, dtype: str) -> bytes:
    """Return length, JSON and padding: https://huggingface.co/docs/safetensors#format."""
    kind, label = DTYPES[dtype]
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, begin, end in _list_offsets(ordered, kind.itemsize):
        entries[name] = {"dtype": label, "shape": list(ordered[name]), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _list_offsets(ordered: Shapes, itemsize: int) -> Iterator[tuple[str, int, int]]:
    begin = 0
    for name, shape in ordered.items():
        end = begin + math.prod(shape) * itemsize
        yield name, begin, end
        begin = end
