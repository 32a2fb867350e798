"""There and back: Hugging Face → subject → Hugging Face must give the same tensors, bit for bit, and the same config.

Necessary, never sufficient: a conversion that is wrong in the same way in both directions comes back whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.equivalence.weights import Weights, largest_difference, same_bits
from ci.errors import SubjectError
from ci.evidence import FailureClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Kind = Literal["metadata", "semantic"]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
DERIVED = ("rotary_emb.inv_freq", "masked_bias")
"""Buffers that old checkpoints hold and every loader computes anew."""
METADATA = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""What the forward pass of a finished model does not read: provenance, generation, training and interface."""
RATIO = ("factor", "original_max_position_embeddings")
"""Where both stand in a yarn or longrope section, `max_position_embeddings` is not read to make up for one."""


@dataclass(frozen=True)
class TensorFinding:
    """A tensor that did not come back as it went."""

    failure_class: FailureClass
    name: str
    message: str


@dataclass(frozen=True)
class ConfigFinding:
    """A key whose resolved value changed; `semantic` where the forward pass reads it."""

    key: str
    kind: Kind
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} ({self.kind}): {self.before!r} became {self.after!r}"


def tensor_findings(original: Path, exported: Path, *, tied: bool) -> Iterator[TensorFinding]:
    """Every difference between the tensors on two disks, by Hugging Face's on-disk names; one tensor in memory."""
    before, after = Weights(original), Weights(exported)
    for name in before.files:
        if name in after:
            yield from _changed(name, before, after)
        elif not name.endswith(DERIVED) and not (tied and name == HEAD and _is_tied(before)):
            yield TensorFinding("missing_tensor", name, f"{name} was not exported")
    for name in after.files:
        if name not in before and not (tied and name == HEAD and _is_tied(after)):
            yield TensorFinding("unexpected_tensor", name, f"{name} was exported, the original has none")


def _changed(name: str, before: Weights, after: Weights) -> Iterator[TensorFinding]:
    one, other = before.tensor(name), after.tensor(name)
    if one.shape != other.shape:
        shapes = f"{tuple(one.shape)} became {tuple(other.shape)}"
        yield TensorFinding("shape_mismatch", name, f"{name}: shape {shapes}")
    elif not same_bits(one, other):
        changed = f"differs by up to {largest_difference(one, other):.3g} ({one.dtype} became {other.dtype})"
        yield TensorFinding("numeric_mismatch", name, f"{name} {changed}".replace("torch.", ""))


def _is_tied(weights: Weights) -> bool:
    return EMBEDDINGS in weights and same_bits(weights.tensor(HEAD), weights.tensor(EMBEDDINGS))


def config_findings(original: Path, exported: Path) -> tuple[ConfigFinding, ...]:
    """Every key whose value changed, defaults resolved as transformers resolves them."""
    return compare_configs(resolved(original), resolved(exported))


def compare_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[ConfigFinding, ...]:
    """Classify the differences of two resolved configs: equal keys are left out."""
    differing = [key for key in sorted({*before, *after}) if _plain(before.get(key)) != _plain(after.get(key))]
    return tuple(ConfigFinding(k, _kind(k, before, after), before.get(k), after.get(k)) for k in differing)


def resolved(directory: Path) -> dict[str, Any]:
    """config.json as transformers understands it. Raises SubjectError where it does not."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
    except Exception as problem:  # whatever transformers raises about a config is a finding about it
        reason = " ".join(str(problem).split())[:300]
        raise SubjectError(f"{directory / 'config.json'}: transformers refuses it: {reason}") from None
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def _unknown_and_off(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """A switch that stands off on one side and is absent on the other: a class that knew it would have its default.

    Qwen2.5's published `use_mrope: false` is such a key; transformers' Qwen2Config has none of that name.
    """
    return (key not in before or key not in after) and not before.get(key) and not after.get(key)


def _kind(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Kind:
    if key in METADATA:
        return "metadata"
    if _unknown_and_off(key, before, after):
        return "metadata"
    if key == "max_position_embeddings" and not _length_sensitive(before) and not _length_sensitive(after):
        return "metadata"
    if key in ("sliding_window", "max_window_layers") and not _windowed(before) and not _windowed(after):
        return "metadata"
    return "semantic"


def _length_sensitive(config: Mapping[str, Any]) -> bool:
    rope = config.get("rope_parameters") or {}
    return any(map(_reads_length, (rope, *(section for section in rope.values() if isinstance(section, dict)))))


def _reads_length(rope: Mapping[str, Any]) -> bool:
    """Whether the angles of a RoPE section depend on `max_position_embeddings`."""
    kind = rope.get("rope_type")
    return kind == "dynamic" or (kind in ("longrope", "yarn") and not all(rope.get(key) for key in RATIO))


def _windowed(config: Mapping[str, Any]) -> bool:
    layers = config.get("layer_types")
    if layers is not None:
        return any(kind != "full_attention" for kind in layers)
    return bool(config.get("sliding_window")) and bool(config.get("use_sliding_window", True))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, default=str))
