"""The rope keys of config.json, in the style of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ci.subjects.reference.config import DefaultRope, Llama3Rope, Rope, YarnRope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.reference.section import Section

LENGTH: Final = "original_max_position_embeddings"


def read_rope(config: Section, default_theta: float) -> Rope:
    """Take the rope keys of a config.json. Raises UnsupportedError for a type or a key that is not implemented."""
    theta = config.take("rope_theta", float, default_theta)
    scaling, parameters = config.section("rope_scaling"), config.section("rope_parameters")
    if scaling and parameters:
        raise config.refused("rope_scaling", "beside rope_parameters")
    rope = scaling or parameters
    kind, theta = _kind(rope), rope.take("rope_theta", float, theta)
    lengths = Lengths(
        maximum=config.optional_positive("max_position_embeddings"),
        outer=config.optional_positive(LENGTH),
        inner=rope.optional_positive(LENGTH) if kind != "default" else None,
    )
    rope.allow("partial_rotary_factor", 1.0, None)
    if kind == "default":
        found: Rope = DefaultRope(theta)
    elif kind == "llama3":
        found = _llama3(rope, theta, lengths)
    elif kind == "yarn":
        found = _yarn(rope, theta, lengths)
    else:
        raise rope.refused("rope_type", kind)
    rope.finish()
    return found


@dataclass(frozen=True)
class Lengths:
    """What config.json says about lengths: the maximum, and the one before scaling on two levels."""

    maximum: int | None
    outer: int | None
    inner: int | None

    def original(self, rope: Section) -> int:
        """The length before scaling, in transformers' order of precedence. Raises SubjectError where unknown."""
        return self.outer or self.inner or self.maximum or rope.take(LENGTH, int)

    def ratio(self, rope: Section) -> float:
        """YaRN's factor where none is given."""
        return (self.maximum or rope.take("factor", float)) / self.original(rope)


def _kind(rope: Section) -> str:
    """`type` is the older name of `rope_type`."""
    old = rope.take("type", str, "default")
    return rope.take("rope_type", str, old)


def _llama3(rope: Section, theta: float, lengths: Lengths) -> Llama3Rope:
    found = Llama3Rope(
        theta=theta,
        scale_factor=rope.take("factor", float),
        low_frequency_factor=rope.take("low_freq_factor", float),
        high_frequency_factor=rope.take("high_freq_factor", float),
        original_context_length=lengths.original(rope),
    )
    if found.high_frequency_factor <= found.low_frequency_factor:
        raise rope.refused("high_freq_factor", f"{found.high_frequency_factor} (not above low_freq_factor)")
    return found


def _yarn(rope: Section, theta: float, lengths: Lengths) -> YarnRope:
    """`truncate` false has no place in Fast-LLM's format; mscale folds into the attention factor."""
    rope.allow("truncate", True, None)
    factor = rope.take_optional("factor", float)
    if factor is None:
        factor = lengths.ratio(rope)
    given = rope.take_optional("attention_factor", float)
    scale, scale_all = rope.take_optional("mscale", float), rope.take_optional("mscale_all_dim", float)
    return YarnRope(
        theta=theta,
        scale_factor=factor,
        attention_factor=_attention_factor(factor, scale, scale_all) if given is None else given,
        beta_fast=rope.take_optional("beta_fast", float) or 32.0,
        beta_slow=rope.take_optional("beta_slow", float) or 1.0,
        original_context_length=lengths.original(rope),
    )


def _attention_factor(factor: float, scale: float | None, scale_all: float | None) -> float:
    """What transformers infers where none is given: the paper's 0.1 ln(s) + 1, or DeepSeek's ratio of two of them."""

    def grown(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    return grown(scale) / grown(scale_all) if scale and scale_all else grown(1.0)


def write_rope(rope: Rope, original: Mapping[str, Any]) -> dict[str, Any]:
    """The rope keys that mean `rope`, in the style of the `original` config.json (older where it has no rope key)."""
    scaling = _scaling(rope)
    if "rope_parameters" in original:
        return {"rope_parameters": {"rope_theta": rope.theta, **(scaling or {"rope_type": "default"})}}
    return {"rope_theta": rope.theta, "rope_scaling": scaling}


def _scaling(rope: Rope) -> dict[str, Any] | None:
    if isinstance(rope, Llama3Rope):
        return {
            "rope_type": "llama3",
            "factor": rope.scale_factor,
            "low_freq_factor": rope.low_frequency_factor,
            "high_freq_factor": rope.high_frequency_factor,
            LENGTH: rope.original_context_length,
        }
    if isinstance(rope, YarnRope):
        return {
            "rope_type": "yarn",
            "factor": rope.scale_factor,
            "attention_factor": rope.attention_factor,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            LENGTH: rope.original_context_length,
        }
    return None
