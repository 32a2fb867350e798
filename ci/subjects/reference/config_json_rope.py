"""Reads and writes the rope keys of config.json.

transformers 4 has `rope_theta` and `rope_scaling`, transformers 5 has `rope_parameters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ci.subjects.reference.config import DefaultRope, Llama3Rope, Rope, YarnRope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.reference.config_section import ConfigSection

LENGTH: Final = "original_max_position_embeddings"


def read_rope(config: ConfigSection, default_theta: float) -> Rope:
    """Read the rope keys of a config.json. Raises UnsupportedError for an unknown type or key."""
    theta = config.take("rope_theta", float, default_theta)
    scaling, parameters = config.take_section("rope_scaling"), config.take_section("rope_parameters")
    if scaling and parameters:
        raise config.refusal("rope_scaling", "beside rope_parameters")
    rope = scaling or parameters
    kind, theta = _read_kind(rope), rope.take("rope_theta", float, theta)
    lengths = Lengths(
        maximum=config.take_optional_positive("max_position_embeddings"),
        outer=config.take_optional_positive(LENGTH),
        inner=rope.take_optional_positive(LENGTH) if kind != "default" else None,
    )
    rope.allow("partial_rotary_factor", 1.0, None)
    if kind == "default":
        result: Rope = DefaultRope(theta)
    elif kind == "llama3":
        result = _read_llama3(rope, theta, lengths)
    elif kind == "yarn":
        result = _read_yarn(rope, theta, lengths)
    else:
        raise rope.refusal("rope_type", kind)
    rope.finish()
    return result


@dataclass(frozen=True)
class Lengths:
    """The context lengths of a config.json: the maximum, and the length before scaling in two places."""

    maximum: int | None
    outer: int | None
    inner: int | None

    def find_original(self, rope: ConfigSection) -> int:
        """Return the length before scaling, in transformers' order of precedence. Raises SubjectError."""
        return self.outer or self.inner or self.maximum or rope.take(LENGTH, int)

    def compute_factor(self, rope: ConfigSection) -> float:
        """Return YaRN's factor where none is given."""
        return (self.maximum or rope.take("factor", float)) / self.find_original(rope)


def _read_kind(rope: ConfigSection) -> str:
    """Read `rope_type`; `type` is its older name."""
    old = rope.take("type", str, "default")
    return rope.take("rope_type", str, old)


def _read_llama3(rope: ConfigSection, theta: float, lengths: Lengths) -> Llama3Rope:
    rotary = Llama3Rope(
        theta=theta,
        scale_factor=rope.take("factor", float),
        low_frequency_factor=rope.take("low_freq_factor", float),
        high_frequency_factor=rope.take("high_freq_factor", float),
        original_context_length=lengths.find_original(rope),
    )
    if rotary.high_frequency_factor <= rotary.low_frequency_factor:
        raise rope.refusal("high_freq_factor", f"{rotary.high_frequency_factor} (not above low_freq_factor)")
    return rotary


def _read_yarn(rope: ConfigSection, theta: float, lengths: Lengths) -> YarnRope:
    """Read YaRN; `truncate` false is refused, and mscale becomes a part of the attention factor.

    Fast-LLM's format has no field for either.
    """
    rope.allow("truncate", True, None)
    factor = rope.take_optional("factor", float)
    if factor is None:
        factor = lengths.compute_factor(rope)
    given = rope.take_optional("attention_factor", float)
    scale, scale_all = rope.take_optional("mscale", float), rope.take_optional("mscale_all_dim", float)
    return YarnRope(
        theta=theta,
        scale_factor=factor,
        attention_factor=infer_attention_factor(factor, scale, scale_all) if given is None else given,
        beta_fast=rope.take_optional("beta_fast", float) or 32.0,
        beta_slow=rope.take_optional("beta_slow", float) or 1.0,
        original_context_length=lengths.find_original(rope),
    )


def infer_attention_factor(factor: float, scale: float | None, scale_all: float | None) -> float:
    """Return the attention factor that transformers infers.

    0.1 ln(s) + 1 as in the paper, or DeepSeek's ratio of two such values.
    """

    def scale_by(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return scale_by(scale) / scale_by(scale_all) if scale and scale_all else scale_by(1.0)


def write_rope(rope: Rope, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rope keys for `rope`, in the style of the `original` config.json.

    The style is transformers 4's where the original has no rope key.
    """
    scaling = _write_scaling(rope)
    if "rope_parameters" in original:
        return {"rope_parameters": {"rope_theta": rope.theta, **(scaling or {"rope_type": "default"})}}
    return {"rope_theta": rope.theta, "rope_scaling": scaling}


def _write_scaling(rope: Rope) -> dict[str, Any] | None:
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
