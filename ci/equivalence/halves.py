"""Which half is wrong, the conversion or the kernel: what independent witnesses say, and the decision. Pure.

Witnesses are the converted directory itself, held tensor by tensor and key by key against the layout written down
here a second time, and another implementation's forward over the same directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONVERSION, KERNEL, BOTH, UNKNOWN = "conversion", "kernel", "conversion and kernel", "half unknown"


ACTIVATIONS = {"gelu_pytorch_tanh": "gelu", "gelu": "exact gelu"}
"""Fast-LLM's `gelu` is the tanh approximation, Hugging Face's is exact."""


@dataclass(frozen=True)
class Witnesses:
    """What each witness found; None where it could not be heard.

    `tensors` and `config` list what is wrong in the converted directory. `third_agrees`: another implementation's
    forward over the subject's directory equals Hugging Face's. `on_right_conversion`: the subject's own forward over
    another implementation's conversion does.
    """

    tensors: tuple[str, ...] | None = None
    config: tuple[str, ...] | None = None
    third_agrees: bool | None = None
    on_right_conversion: bool | None = None


@dataclass(frozen=True)
class Half:
    """The half that is wrong, and the witness's word for it."""

    name: str
    because: str = ""


def decide(heard: Witnesses) -> Half:
    """Weigh the witnesses: a forward over the same directory weighs most, then what the directory holds."""
    named = [*(heard.tensors or ()), *(heard.config or ())]
    said = "; ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    if heard.third_agrees:
        return Half(KERNEL, "the reference's forward over the same converted checkpoint equals Hugging Face's")
    if heard.third_agrees is False or named:
        because = said or "the reference's forward over the same converted checkpoint is wrong too"
        return Half(BOTH if heard.on_right_conversion is False else CONVERSION, because)
    if heard.tensors is not None and heard.config is not None:
        return Half(KERNEL, "every tensor and every key of the converted checkpoint is right")
    if heard.tensors is not None and heard.on_right_conversion is False:
        return Half(KERNEL, "it is wrong over the reference's conversion too")
    return Half(UNKNOWN, "no independent witness understands this checkpoint")


def wrong_keys(config: dict[str, Any], architecture: Any) -> tuple[str, ...]:
    """What a converted architecture says differently from a resolved Hugging Face config.

    `architecture` is `ci.subjects.reference.config.Architecture`, `config` what transformers made of config.json.
    """
    block_facts = [_block_facts(block) for block in architecture.blocks]
    wanted = _wanted(config)
    findings = []
    for key, expected in wanted.items():
        for layer, facts in enumerate(block_facts):
            if key in facts and not _equal(facts[key], _of_layer(expected, layer)):
                findings.append(f"{key} is {facts[key]!r} in layer {layer}, expected {_of_layer(expected, layer)!r}")
                break
    model = {"layers": len(block_facts), "tied": architecture.tied, "final epsilon": architecture.epsilon}
    model |= {"vocabulary": architecture.vocabulary, "hidden": architecture.hidden}
    findings += [f"{k} is {v!r}, expected {wanted[k]!r}" for k, v in model.items() if not _equal(v, wanted[k])]
    return tuple(findings)


def _wanted(config: dict[str, Any]) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    mixture = config.get("num_local_experts")
    qwen = config["model_type"] == "qwen2"
    rope = config.get("rope_parameters") or {"rope_type": "default"}
    return {
        "layers": config["num_hidden_layers"],
        "tied": bool(config.get("tie_word_embeddings")),
        "final epsilon": config["rms_norm_eps"],
        "vocabulary": config["vocab_size"],
        "hidden": config["hidden_size"],
        "epsilon": config["rms_norm_eps"],
        "heads": heads,
        "key-value heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "window": _windows(config),
        "query, key and value bias": bool(qwen or config.get("attention_bias", False)),
        "output bias": bool(not qwen and config.get("attention_bias", False)),
        "MLP bias": bool(config.get("mlp_bias", False)),
        "intermediate": config["intermediate_size"],
        "activation": {"gelu_pytorch_tanh": "gelu", "gelu": "exact gelu"}.get(
            config["hidden_act"], config["hidden_act"]
        ),
        "experts": mixture,
        "experts per token": config.get("num_experts_per_tok") if mixture else None,
        "rope": rope.get("rope_type", "default"),
        "rope theta": rope.get("rope_theta"),
        "rope factor": rope.get("factor"),
        "rope original length": rope.get("original_max_position_embeddings"),
        "rope low frequency factor": rope.get("low_freq_factor"),
        "rope high frequency factor": rope.get("high_freq_factor"),
        "rope beta_fast": rope.get("beta_fast"),
        "rope beta_slow": rope.get("beta_slow"),
        "rope attention factor": rope.get("attention_factor"),
        "rope truncate": rope.get("truncate", True),
    }


def _windows(config: dict[str, Any]) -> list[int | None] | int | None:
    window = config.get("sliding_window")
    if config.get("layer_types"):
        return [window if kind == "sliding_attention" else None for kind in config["layer_types"]]
    return window if config.get("use_sliding_window", True) else None


def _block_facts(block: Any) -> dict[str, Any]:
    attention, mlp, rope = block.attention, block.mlp, block.attention.rope
    facts = {
        "epsilon": block.epsilon,
        "heads": attention.heads,
        "key-value heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "window": attention.window,
        "query, key and value bias": attention.qkv_bias,
        "output bias": attention.output_bias,
        "MLP bias": mlp.bias,
        "intermediate": mlp.intermediate,
        "activation": mlp.activation,
        "experts": mlp.experts,
        "experts per token": mlp.experts_per_token,
        "rope": {"DefaultRope": "default", "Llama3Rope": "llama3", "YarnRope": "yarn"}[type(rope).__name__],
        "rope theta": rope.theta,
        "rope truncate": True,
    }
    named = {
        "rope factor": "scale_factor",
        "rope original length": "original_context_length",
        "rope low frequency factor": "low_frequency_factor",
        "rope high frequency factor": "high_frequency_factor",
        "rope beta_fast": "beta_fast",
        "rope beta_slow": "beta_slow",
        "rope attention factor": "attention_factor",
    }
    return facts | {key: getattr(rope, name) for key, name in named.items() if hasattr(rope, name)}


def _of_layer(expected: Any, layer: int) -> Any:
    return (expected[layer] if layer < len(expected) else None) if isinstance(expected, list) else expected


def _equal(actual: Any, expected: Any) -> bool:
    """A float key that config.json leaves to a default is not comparable: None is no statement about it."""
    if isinstance(actual, float) and expected is None:
        return True
    if isinstance(actual, float) and isinstance(expected, int | float):
        return abs(actual - expected) <= 1e-12 * max(abs(actual), abs(expected))
    return bool(actual == expected)
