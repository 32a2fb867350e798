"""Conversion bugs in config keys: dropped, off by one, of another unit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.mutation import applicability
from benchmarks.mutation.injection import Mutation
from benchmarks.mutation.locations import IN_LAYER, IN_LAYER_0, LAYER
from ci.subjects.reference.config import Architecture, DefaultRope

if TYPE_CHECKING:
    from collections.abc import Callable


def _blocks(architecture: Architecture, change: Callable[[Any], Any]) -> Architecture:
    return replace(architecture, blocks=tuple(change(block) for block in architecture.blocks))


def _rope(change: Callable[[Any], Any]) -> Callable[[Architecture], Architecture]:
    return lambda architecture: _blocks(
        architecture, lambda b: replace(b, mixer=replace(b.attention, rope=change(b.attention.rope)))
    )


def _window(change: Callable[[Any], Any]) -> Callable[[Architecture], Architecture]:
    return lambda architecture: _blocks(
        architecture, lambda b: replace(b, mixer=replace(b.attention, window=change(b.attention.window)))
    )


def _one_window_lost(architecture: Architecture) -> Architecture:
    blocks = list(architecture.blocks)
    blocks[LAYER] = replace(blocks[LAYER], mixer=replace(blocks[LAYER].attention, window=None))
    return replace(architecture, blocks=tuple(blocks))


KEYS: tuple[Mutation, ...] = (
    Mutation(
        "RoPE base times 1.5",
        "RoPE base",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: replace(r, theta=r.theta * 1.5)),
    ),
    Mutation(
        "RoPE scaling dropped",
        "RoPE scaling",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: DefaultRope(r.theta)),
        applies_to=applicability.is_named("biased", "yarn"),
    ),
    Mutation(
        "YaRN attention factor dropped",
        "RoPE scaling",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: replace(r, attention_factor=1.0)),
        applies_to=applicability.has_rope_type("yarn"),
    ),
    Mutation(
        "YaRN beta_fast taken from beta_slow",
        "RoPE scaling",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: replace(r, beta_fast=r.beta_slow + 1, beta_slow=r.beta_slow)),
        applies_to=applicability.has_rope_type("yarn"),
    ),
    Mutation(
        "YaRN factor inverted",
        "RoPE scaling",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: replace(r, scale_factor=1 / r.scale_factor)),
        applies_to=applicability.has_rope_type("yarn"),
    ),
    Mutation(
        "original RoPE length replaced by the maximum",
        "RoPE scaling",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: replace(r, original_context_length=320)),
        applies_to=applicability.is_named("biased", "yarn"),
    ),
    Mutation(
        "llama3 low frequency factor doubled",
        "RoPE scaling",
        rf"{IN_LAYER_0}\.mixer\.query",
        architecture=_rope(lambda r: replace(r, low_frequency_factor=r.low_frequency_factor * 2)),
        applies_to=applicability.has_rope_type("llama3"),
    ),
    Mutation(
        "norm epsilon 1e-5 became 1e-6",
        "norm epsilon",
        rf"{IN_LAYER_0}\.norm_1",
        architecture=lambda a: _blocks(replace(a, epsilon=1e-6), lambda b: replace(b, epsilon=1e-6)),
    ),
    Mutation(
        "final norm epsilon 1e-5 became 1e-6",
        "norm epsilon",
        "final_norm",
        architecture=lambda a: replace(a, epsilon=1e-6),
    ),
    Mutation(
        "window one longer",
        "sliding window",
        rf"{IN_LAYER_0}\.mixer\.context",
        architecture=_window(lambda w: w + 1),
        applies_to=applicability.has_window,
    ),
    Mutation(
        "window one shorter",
        "sliding window",
        rf"{IN_LAYER_0}\.mixer\.context",
        architecture=_window(lambda w: w - 1),
        applies_to=applicability.has_window,
    ),
    Mutation(
        "window lost",
        "sliding window",
        rf"{IN_LAYER_0}\.mixer\.context",
        architecture=_window(lambda _: None),
        applies_to=applicability.has_window,
    ),
    Mutation(
        "window lost in one layer",
        "sliding window",
        rf"{IN_LAYER}\.mixer\.context",
        architecture=_one_window_lost,
        applies_to=applicability.has_window,
    ),
    Mutation(
        "window invented",
        "sliding window",
        rf"{IN_LAYER_0}\.mixer\.context",
        architecture=_window(lambda _: 50),
        applies_to=applicability.is_named("moe", "tied", "float32"),
    ),
    Mutation(
        "activation became tanh gelu",
        "activation",
        rf"{IN_LAYER_0}\.mlp",
        architecture=lambda a: _blocks(a, lambda b: replace(b, mlp=replace(b.mlp, activation="gelu"))),
    ),
    Mutation(
        "one expert fewer per token",
        "router",
        rf"{IN_LAYER_0}\.mlp\.router_top_experts",
        architecture=lambda a: _blocks(a, lambda b: replace(b, mlp=replace(b.mlp, experts_per_token=1))),
        applies_to=applicability.is_moe,
    ),
)
"""Bugs in the config keys of a conversion."""
