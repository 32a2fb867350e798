"""The table of rules: every row can be applied, and no row is out of reach."""

from __future__ import annotations

import pytest

from ci.hub import truncation_rules
from ci.hub.truncation import EDITS
from ci.hub.truncation_rules import FIELD_RULES, Rule

PASSIVE = {Rule.UNCHANGED}
"""Rules that change nothing."""


def test_every_rule_has_an_edit_or_changes_nothing() -> None:
    assert set(EDITS) | PASSIVE == set(Rule)
    assert not set(EDITS) & PASSIVE


def test_every_rule_is_used_by_a_field_except_the_one_for_unknown_fields() -> None:
    assert set(FIELD_RULES.values()) == set(Rule) - {Rule.UNKNOWN}


def test_names_of_the_depth_are_no_rows() -> None:
    """They are edited by themselves: a row would edit them a second time."""
    names = (
        *truncation_rules.DEPTH_FIELDS,
        *truncation_rules.ENCODER_DEPTH_FIELDS,
        *truncation_rules.DECODER_DEPTH_FIELDS,
    )
    assert not FIELD_RULES.keys() & set(names)
    assert len(names) == len(set(names))
    assert FIELD_RULES[truncation_rules.DEPTH_LIST_FIELD] is Rule.VALUE_PER_LAYER


def test_fields_that_another_field_enables_have_a_row() -> None:
    assert truncation_rules.ENABLED_BY.keys() <= FIELD_RULES.keys()


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (truncation_rules.LAYER_WORDS, ["layer_types", "moe_layers", "block_configs", "mtp_x"], ["player", "blocked"]),
        (truncation_rules.INDEX_WORDS, ["full_attn_idxs", "indices", "layer_indexes"], ["idx_size", "reindices"]),
        (truncation_rules.COUNT_WORDS, ["num_extra_layers", "depth", "every_n", "layer_step"], ["block_size", "eps"]),
        (truncation_rules.OTHER_MODALITY, ["vision_config", "visual", "audio_tower", "vq"], ["text_config", "revq"]),
    ],
)
def test_words(pattern: object, matching: list[str], others: list[str]) -> None:
    search = pattern.search  # type: ignore[attr-defined]
    assert [name for name in matching if not search(name)] == []
    assert [name for name in others if search(name)] == []
