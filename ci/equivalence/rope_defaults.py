"""RoPE sections of a resolved config with the values that transformers infers for absent keys.

transformers resolves most defaults in the config itself, but those of YaRN only where it computes the frequencies:
https://github.com/huggingface/transformers/blob/main/src/transformers/modeling_rope_utils.py,
`_compute_yarn_parameters`. An export that writes the inferred value down says the same as an original without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ci.equivalence.tolerances import CONFIG_ROUNDING
from ci.subjects.reference.config_json_rope import infer_attention_factor

ATTENTION_FACTOR, FACTOR, ORIGINAL = "attention_factor", "factor", "original_max_position_embeddings"
ONLY_WITHOUT_ATTENTION_FACTOR: Final = ("mscale", "mscale_all_dim")
"""Keys that are read only where the attention factor is not given."""
OLDER_NAME: Final = "type"
"""The older name of `rope_type`, which transformers leaves beside it."""
BETAS: Final = {"beta_fast": 32.0, "beta_slow": 1.0}


def have_equal_meaning(before: Any, after: Any, lengths: tuple[Any, Any] = (None, None)) -> bool:
    """Return whether two RoPE sections give the same angles, also where one leaves values to be inferred.

    `lengths` are the `max_position_embeddings` beside each. Sections may be those of several layer types.
    """
    one, other = (fill_defaults(section, length) for section, length in zip((before, after), lengths, strict=True))
    return _are_equal(one, other)


def fill_defaults(section: Any, length: Any = None) -> Any:
    """Return a section, or those of several layer types, with inferred values and without unread keys."""
    if not isinstance(section, Mapping):
        return section
    filled = {key: fill_defaults(value, length) for key, value in section.items()}
    if filled.get(OLDER_NAME) == filled.get("rope_type"):
        filled.pop(OLDER_NAME, None)
    if filled.get("rope_type") == "yarn":
        filled |= {key: filled.get(key) or default for key, default in BETAS.items()}
        filled["truncate"] = filled.get("truncate", True)
        filled |= _infer_factors(filled, length)
    if filled.get(ATTENTION_FACTOR) is None:
        return filled
    return {key: value for key, value in filled.items() if key not in ONLY_WITHOUT_ATTENTION_FACTOR}


def _infer_factors(section: Mapping[str, Any], length: Any) -> dict[str, Any]:
    """Return YaRN's factor and attention factor; none where the factor cannot be told."""
    factor, original = section.get(FACTOR), section.get(ORIGINAL)
    if factor is None and isinstance(length, int) and original:
        factor = length / original
    if not isinstance(factor, int | float):
        return {}
    given, scales = section.get(ATTENTION_FACTOR), map(section.get, ONLY_WITHOUT_ATTENTION_FACTOR)
    return {FACTOR: factor, ATTENTION_FACTOR: infer_attention_factor(factor, *scales) if given is None else given}


def _are_equal(one: Any, other: Any) -> bool:
    """Compare sections: all exactly but the attention factor, a logarithm that went through decimal text."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return bool(one == other)
    return one.keys() == other.keys() and all(
        math.isclose(value, other[key], rel_tol=CONFIG_ROUNDING)
        if key == ATTENTION_FACTOR and isinstance(value, float) and isinstance(other[key], float)
        else _are_equal(value, other[key])
        for key, value in one.items()
    )
