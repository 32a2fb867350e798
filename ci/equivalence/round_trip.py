"""There and back: Hugging Face → subject → Hugging Face must give the same tensors, bit for bit, and the same config.

Necessary, never sufficient: a conversion that is wrong in the same way in both directions comes back whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ci.equivalence.checkpoint_tensors import CheckpointTensors, find_largest_difference, have_same_bits
from ci.equivalence.rope_defaults import have_equal_meaning
from ci.evidence import FailureClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import HuggingFaceRunner

KeyKind = Literal["metadata", "semantic"]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
DERIVED = ("rotary_emb.inv_freq", "masked_bias")
"""Buffers that old checkpoints hold and every loader computes anew."""
METADATA_KEYS = frozenset(
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
"""Keys that the forward pass of a finished model does not read: provenance, generation, training and interface."""
LENGTH_RATIO_KEYS = ("factor", "original_max_position_embeddings")
"""Where both are in a yarn or longrope section, `max_position_embeddings` is not read in place of one."""

SUB_CONFIGS = ("text_config", "vision_config", "audio_config")
"""Sections that are configs of a class of their own, with the keys of any other one."""
NESTED_SECTIONS = ("decoder", "embeddings", "head", "vision_encoder")
TRAINING_KEYS = ("sampling_strategy", "sampling_weights")
"""Keys of nested blocks that only training reads: outside of it the main mixer runs."""
ROPE_SECTIONS = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True)
class TensorChange:
    """A tensor that did not come back as it went."""

    failure_class: FailureClass
    name: str
    message: str


@dataclass(frozen=True)
class KeyChange:
    """A key with another resolved value; `semantic` where the forward pass reads it."""

    key: str
    kind: KeyKind
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} ({self.kind}): {self.before!r} became {self.after!r}"


def build_round_trip_verdict(tensors: Sequence[TensorChange], keys: Sequence[KeyChange], exported: Verdict) -> Verdict:
    """Combine changed tensors, changed semantic keys, and the verdict on the exported checkpoint's own forward."""
    semantic = [change for change in keys if change.kind == "semantic"]
    wrong = [*(change.message for change in tensors), *map(str, semantic)]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    forward = "" if exported.passed else f"the exported checkpoint in stock Hugging Face: {exported.diagnosis}"
    failure: FailureClass | None = "config_mismatch" if semantic else exported.failure_class
    counts = {"tensors_changed": float(len(tensors)), "semantic_keys_changed": float(len(semantic))}
    return replace(
        exported,
        passed=exported.passed and not wrong,
        failure_class=tensors[0].failure_class if tensors else failure,
        diagnosis=f"conversion there and back: {wrong[0]}{more}" if wrong else forward,
        component="conversion" if wrong or not exported.passed else "",
        figures={**{f"round_trip.{key}": value for key, value in exported.figures.items()}, **counts},
        notes=tuple(f"config {change}" for change in keys if change.kind == "metadata"),
    )


def compare_checkpoints(original: Path, exported: Path, *, tied: bool) -> Iterator[TensorChange]:
    """Yield every difference of two directories, by Hugging Face's names on disk; one tensor in memory."""
    before, after = CheckpointTensors(original), CheckpointTensors(exported)
    for name in before.files:
        if name in after:
            yield from _compare_one(name, before, after)
        elif not name.endswith(DERIVED) and not (tied and name == HEAD and _is_tied(before)):
            yield TensorChange("missing_tensor", name, f"{name} was not exported")
    for name in after.files:
        if name not in before and not (tied and name == HEAD and _is_tied(after)):
            yield TensorChange("unexpected_tensor", name, f"{name} was exported, the original has none")


def _compare_one(name: str, before: CheckpointTensors, after: CheckpointTensors) -> Iterator[TensorChange]:
    one, other = before.read(name), after.read(name)
    if one.shape != other.shape:
        shapes = f"{tuple(one.shape)} became {tuple(other.shape)}"
        yield TensorChange("shape_mismatch", name, f"{name}: shape {shapes}")
    elif not have_same_bits(one, other):
        changed = f"differs by up to {find_largest_difference(one, other):.3g} ({one.dtype} became {other.dtype})"
        yield TensorChange("numeric_mismatch", name, f"{name} {changed}".replace("torch.", ""))


def _is_tied(checkpoint: CheckpointTensors) -> bool:
    return EMBEDDINGS in checkpoint and have_same_bits(checkpoint.read(HEAD), checkpoint.read(EMBEDDINGS))


def resolve_config(directory: Path, side: HuggingFaceRunner | None = None) -> dict[str, Any]:
    """Return config.json as transformers understands it, defaults filled in. Raises SubjectError where it does not.

    `side` is Hugging Face's; without it, transformers in this process.
    """
    from ci.subjects.hugging_face import HuggingFace

    return dict((side or HuggingFace()).resolve_config(str(directory)))


def compare_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[KeyChange, ...]:
    """Return the keys that differ between two resolved configs, each classified; those of a part by dotted path."""
    differing = [key for key in sorted({*before, *after}) if _to_plain(before.get(key)) != _to_plain(after.get(key))]
    return tuple(change for key in differing for change in _compare_key(key, before, after))


def _compare_key(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[KeyChange]:
    """Yield the change of a key; of nested blocks and of the configs of parts, that of each leaf by its path."""
    one, other = before.get(key), after.get(key)
    if key in SUB_CONFIGS and isinstance(one, dict) and isinstance(other, dict):
        yield from (replace(change, key=f"{key}.{change.key}") for change in compare_configs(one, other))
        return
    if key not in NESTED_SECTIONS or not (isinstance(one, dict) and isinstance(other, dict)):
        yield KeyChange(key, _classify_key(key, before, after), one, other)
        return
    for path, old, new in _find_changed_leaves(one, other, key):
        kind: KeyKind = "metadata" if path.rpartition(".")[2] in TRAINING_KEYS else "semantic"
        yield KeyChange(path, kind, old, new)


def _find_changed_leaves(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _find_changed_leaves(one.get(key), other.get(key), f"{path}.{key}")
    elif _to_plain(one) != _to_plain(other):
        yield path, one, other


def _classify_key(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> KeyKind:
    if key in METADATA_KEYS:
        return "metadata"
    if _is_unknown_and_off(key, before, after):
        return "metadata"
    if key in ROPE_SECTIONS and _rotate_alike(key, before, after):
        return "metadata"
    if key in ROPE_SECTIONS and (_repeats_default(key, before, after) or _repeats_default(key, after, before)):
        return "metadata"
    if key == "max_position_embeddings" and not _is_length_sensitive(before) and not _is_length_sensitive(after):
        return "metadata"
    if key in ("sliding_window", "max_window_layers") and not _has_window(before) and not _has_window(after):
        return "metadata"
    return "semantic"


def _rotate_alike(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether a RoPE section says the same in both configs, inferred values filled in."""
    lengths = before.get("max_position_embeddings"), after.get("max_position_embeddings")
    return have_equal_meaning(_to_plain(before.get(key)), _to_plain(after.get(key)), lengths)


def _repeats_default(key: str, without: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether a RoPE section that one config lacks says what both say without it: the plain RoPE of their base.

    A class that does not know the section reads `rope_theta` beside it.
    """
    section = config.get(key)
    if without.get(key) or not isinstance(section, dict) or not section:
        return False
    plain = section.get("rope_type") == "default" and set(section) <= {"rope_type", "rope_theta"}
    return plain and section.get("rope_theta") == config.get("rope_theta") == without.get("rope_theta")


def _is_unknown_and_off(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether a switch is off on one side and absent on the other.

    A class that knew the switch would fill in its default.
    Qwen2.5's published `use_mrope: false` is such a key; transformers' Qwen2Config has none of that name.
    """
    return (key not in before or key not in after) and not before.get(key) and not after.get(key)


def _is_length_sensitive(config: Mapping[str, Any]) -> bool:
    rope = config.get("rope_parameters") or {}
    return any(map(_reads_length, (rope, *(section for section in rope.values() if isinstance(section, dict)))))


def _reads_length(rope: Mapping[str, Any]) -> bool:
    """Return whether the angles of a RoPE section depend on `max_position_embeddings`."""
    kind = rope.get("rope_type")
    return kind == "dynamic" or (kind in ("longrope", "yarn") and not all(rope.get(key) for key in LENGTH_RATIO_KEYS))


def _has_window(config: Mapping[str, Any]) -> bool:
    layers = config.get("layer_types")
    if layers is not None:
        return any(kind != "full_attention" for kind in layers)
    return bool(config.get("sliding_window")) and bool(config.get("use_sliding_window", True))


def _to_plain(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, default=str))
