"""The implementations that a model can run: listed by its code, chosen for a request, and set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.errors import UnsupportedError
from ci.subjects.base import TraceRequest, Variant
from ci.subjects.hugging_face.structure import classify_mixer, find_decoder_blocks, find_mixer, has_experts
from ci.subjects.hugging_face.watched_functions import find_own_modules

if TYPE_CHECKING:
    from collections.abc import Sequence


ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
BATCH = ("together", "row_by_row")


def list_variants(model: Any) -> tuple[Variant, ...]:
    """Return the implementations of a model, each axis's default first."""
    axes = {"attention": ATTENTION, "experts": EXPERTS, "batch": BATCH}
    if not has_experts(model):
        del axes["experts"]
    if find_own_modules(model):
        axes |= {"attention": _find_own_attention(model), "batch": _find_own_batch(model)}
    return tuple(Variant(axis, name, default=name == names[0]) for axis, names in axes.items() for name in names)


def _find_own_attention(model: Any) -> tuple[str, ...]:
    """Return the attention implementations that a model's own code can run.

    Code from before transformers' dispatch has a class for each, and builds one of them.
    """
    built = {type(find_mixer(block)).__name__ for block in find_decoder_blocks(model)}
    return ("sdpa",) if any("Sdpa" in name for name in built) else ATTENTION


def _find_own_batch(model: Any) -> tuple[str, ...]:
    """Return how a model's own code can run padded rows: a recurrence, or attention both ways, reads the padding."""
    mixers = [find_mixer(block) for block in find_decoder_blocks(model)]
    causal = all(classify_mixer(mixer) == "attention" and getattr(mixer, "is_causal", False) for mixer in mixers)
    return BATCH if causal else ("row_by_row",)


def choose_variant(known: Sequence[Variant], request: TraceRequest, *, padded: bool) -> dict[str, str]:
    """Return axis → name for every axis of the model: the request's, else the default.

    In float64 padded rows run alone unless asked otherwise: eager attention casts its mask's float64 minimum to
    float32 before the softmax, where it is -inf; a row of padding becomes NaN, which spreads.
    """
    for axis, name in request.variant.items():
        if not any((v.axis, v.name) == (axis, name) for v in known):
            raise UnsupportedError(f"Hugging Face, {request.checkpoint}: this model has no variant {axis}={name}")
    defaults = {v.axis: v.name for v in known if v.default}
    if padded and request.dtype == "float64":
        defaults["batch"] = "row_by_row"
    return defaults | dict(request.variant)


def set_implementations(model: Any, variant: dict[str, str]) -> None:
    """Switch a loaded model to the implementations of a variant."""
    if find_own_modules(model):  # transformers looks for its own dispatch in the code, and changes nothing without
        for config in {id(c): c for part in model.modules() if (c := getattr(part, "config", None))}.values():
            config._attn_implementation = variant["attention"]
    else:
        model.set_attn_implementation(variant["attention"])
    if "experts" in variant:
        model.set_experts_implementation(variant["experts"])
