"""What transformers infers for absent keys of a RoPE section: an export that writes it down says the same."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ci.equivalence.rope_defaults import fill_defaults, have_equal_meaning
from ci.equivalence.round_trip import compare_configs

BARE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 7.3, "original_max_position_embeddings": 41}
INFERRED = 1.1987874348154346
"""0.1 ln(7.3) + 1, arXiv 2309.00071, section 3.4."""
WRITTEN = {**BARE, "attention_factor": INFERRED, "beta_fast": 32.0, "beta_slow": 1.0}
MSCALES = {"mscale": 0.7, "mscale_all_dim": 1.3}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0}


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        (BARE, WRITTEN, True),
        (BARE, {**WRITTEN, "truncate": True}, True),
        (BARE, {**WRITTEN, "attention_factor": INFERRED * (1 + 1e-15)}, True),
        (BARE, {**WRITTEN, "attention_factor": INFERRED * (1 + 1e-9)}, False),
        (BARE, {**WRITTEN, "beta_fast": 31.0}, False),
        (BARE, {**WRITTEN, "beta_slow": 2.0}, False),
        (BARE, {**WRITTEN, "truncate": False}, False),
        (BARE, {**WRITTEN, "factor": 7.4}, False),
        ({**BARE, **MSCALES}, WRITTEN, False),
        ({**BARE, **MSCALES}, {**WRITTEN, "attention_factor": 0.9051746094}, False),
        ({**BARE, "factor": None}, {**WRITTEN, "factor": 512 / 41, "attention_factor": 1.2524765}, False),
        ({"full_attention": BARE}, {"full_attention": WRITTEN}, True),
        ({"full_attention": BARE}, {"full_attention": {**WRITTEN, "beta_slow": 2.0}}, False),
        (LLAMA3, {**LLAMA3, "attention_factor": 1.0}, False),
        (LLAMA3, {**LLAMA3, "beta_fast": 32.0}, False),
        (None, BARE, False),
        ({**LLAMA3, "type": "llama3"}, LLAMA3, True),
        ({**LLAMA3, "type": "linear"}, LLAMA3, False),
        ({**BARE, "type": "yarn"}, WRITTEN, True),
    ],
)
def test_an_inferred_value_means_the_same_as_no_value(before: Any, after: Any, equal: bool) -> None:
    assert have_equal_meaning(before, after, (512, 512)) is have_equal_meaning(after, before, (512, 512)) is equal
    changes = compare_configs({"rope_parameters": before}, {"rope_parameters": after})
    assert [change.kind for change in changes] == ["metadata" if equal else "semantic"]


@pytest.mark.parametrize("more", [{}, MSCALES, {"factor": None}, {"attention_factor": 1.3}, {"beta_fast": None}])
def test_the_values_are_those_that_transformers_computes_with(more: dict[str, Any]) -> None:
    section = {**BARE, **more}
    filled = fill_defaults(section, 512)
    configs = [
        LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=512, rope_parameters=rope)
        for rope in (section, filled)
    ]
    (one, scale), (other, other_scale) = (ROPE_INIT_FUNCTIONS["yarn"](config, "cpu") for config in configs)
    assert one.equal(other)
    assert scale == other_scale == filled["attention_factor"]
