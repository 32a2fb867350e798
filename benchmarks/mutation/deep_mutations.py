"""Bugs that change nothing in a short model of usual values: only the tests of `--deep` can catch them.

A converter that hard-codes the value which a model has converts that model right, and every other one wrong. Each bug
is injected into one or two tiny models, because a check of `--deep` takes a minute.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.mutation import applicability
from benchmarks.mutation.field_mutations import QUERY_IN_LAYER_0, change_positions
from benchmarks.mutation.injection import Mutation, Weights
from ci.subjects.reference.config import Llama3Rope, YarnRope

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.mutation.tiny_models import TinyModel
    from ci.subjects.reference.config import Architecture

DeepCheck = Literal["config sensitivity", "layer order", "positions"]
CONTEXT = 4096
"""Positions of a model in which a bug of far positions can exist."""


@dataclass(frozen=True)
class DeepBug:
    """A bug, and the check of `--deep` that must catch it; a diagnosis that names the place matches `named`."""

    mutation: Mutation
    check: DeepCheck
    named: str

    def is_named(self, diagnosis: str) -> bool:
        """Return whether a diagnosis names the place of the bug."""
        return re.search(self.named, diagnosis) is not None


def _constant(
    name: str, kind: str, change: Callable[[Any], Any], named: str, applies_to: Callable[[TinyModel], bool]
) -> DeepBug:
    """Return the bug of a conversion that writes constants into every block."""

    def edit(architecture: Architecture) -> Architecture:
        return replace(architecture, blocks=tuple(change(block) for block in architecture.blocks))

    return DeepBug(Mutation(name, kind, "", architecture=edit, applies_to=applies_to), "config sensitivity", named)


def _set_rope(kind: type[Any], **constants: Any) -> Callable[[Any], Any]:
    """Set constants in each RoPE of a kind, and leave others alone."""

    def change(block: Any) -> Any:
        rope = block.attention.rope
        fixed: Any = replace(rope, **constants) if isinstance(rope, kind) else rope
        return replace(block, mixer=replace(block.attention, rope=fixed))

    return change


def _infer_attention_factor(block: Any) -> Any:
    rope = block.attention.rope
    if not isinstance(rope, YarnRope):
        return block
    return _set_rope(YarnRope, attention_factor=0.1 * math.log(rope.scale_factor) + 1)(block)


def _order_layers_as_text(weights: Weights, architecture: Architecture) -> None:
    """Give the layers the order of their names as text: 0, 1, 10, 11, 2, …"""
    before = dict(weights)
    for new, old in enumerate(sorted(range(len(architecture.blocks)), key=str)):
        for name in [name for name in before if name.startswith(f"decoder.{old}.")]:
            weights[name.replace(f"decoder.{old}.", f"decoder.{new}.", 1)] = before[name]


def _far(name: str, change: Callable[[Any], Any]) -> DeepBug:
    bug = Mutation(
        name,
        "far positions",
        QUERY_IN_LAYER_0,
        patches=change_positions(change),
        hf_targets=("rope",),
        applies_to=applicability.is_named("dense", "moe"),
    )
    return DeepBug(bug, "positions", r"layer 0, query .*\[kernel\]")


DEEP: tuple[DeepBug, ...] = (
    _constant(  # https://github.com/swiss-ai/Megatron-LM/issues/80: the factors of Llama-3.1 for every model
        "llama3 factors hard-coded",
        "hard-coded constant",
        _set_rope(Llama3Rope, scale_factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0),
        "rope llama3",
        applicability.has_rope_type("llama3"),
    ),
    _constant(  # https://github.com/vllm-project/vllm/issues/48351, https://github.com/ml-explore/mlx-lm/issues/1507
        "YaRN attention_factor of the config ignored",
        "hard-coded constant",
        _infer_attention_factor,
        "rope yarn",
        applicability.has_rope_type("yarn"),
    ),
    _constant(  # https://github.com/ServiceNow/Fast-LLM/issues/320: parameters of yarn lost
        "YaRN betas hard-coded",
        "hard-coded constant",
        _set_rope(YarnRope, beta_fast=32.0, beta_slow=1.0),
        "rope yarn",
        applicability.has_rope_type("yarn"),
    ),
    _constant(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/3077: rope_theta lost
        "RoPE base hard-coded",
        "hard-coded constant",
        lambda block: _set_rope(type(block.attention.rope), theta=10000.0)(block),
        "rope_theta",
        applicability.is_named("dense"),
    ),
    _constant(  # the three below have no thread of their own: the same kind of constant
        "norm epsilon hard-coded",
        "hard-coded constant",
        lambda block: replace(block, epsilon=1e-5),
        "rms_norm_eps",
        applicability.is_named("moe"),
    ),
    _constant(
        "activation hard-coded",
        "hard-coded constant",
        lambda block: replace(block, mlp=replace(block.mlp, activation="silu")),
        "hidden_act",
        applicability.is_named("tied"),
    ),
    _constant(
        "experts per token hard-coded",
        "hard-coded constant",
        lambda block: replace(block, mlp=replace(block.mlp, experts_per_token=2)),
        "num_experts_per_tok",
        applicability.is_moe,
    ),
    _constant(  # https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/2656: the sliding window
        "sliding window hard-coded",
        "hard-coded constant",
        lambda block: replace(block, mixer=replace(block.attention, window=20)),
        "sliding_window",
        applicability.has_window,
    ),
    DeepBug(  # layers sorted as text: right up to ten layers
        Mutation(
            "layers in the order of text",
            "layer order",
            r"decoder\.2\.norm_1",
            weights=_order_layers_as_text,
            applies_to=applicability.is_named("dense", "moe"),
        ),
        "layer order",
        r"layer 2, .*\[conversion\]",
    ),
    _far("positions in float16", lambda p: p.half().float()),  # exact up to 2048
    _far("positions modulo 1024", lambda p: p % 1024),
    _far("RoPE table of 2048 positions", lambda p: p.clamp(max=2047)),
)
"""Each with the check that must catch it."""
