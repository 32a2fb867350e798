"""No key is ignored: taken and checked, inert by name, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.reference.config_section import ConfigSection


def test_values_are_checked_and_defaults_apply() -> None:
    section = ConfigSection("here", {"a": 3, "b": 4, "c": None, "d": {"e": True}})
    assert (section.take("a", int), section.take("b", float), section.take("z", str, "later")) == (3, 4.0, "later")
    assert (section.take_optional("c", int, 7), section.take_optional("y", int, 7)) == (None, 7)
    assert section.take_section("d").take("e", bool) is True
    assert not section
    section.finish()


@pytest.mark.parametrize(
    ("value", "kind"), [(True, int), (1, bool), ("1", int), (1.5, int), (None, int), (float("nan"), float), ([], dict)]
)
def test_a_wrong_type_names_key_and_value(value: Any, kind: Any) -> None:
    with pytest.raises(SubjectError, match=r"here: 'key' must be"):
        ConfigSection("here", {"key": value}).take("key", kind)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(SubjectError, match="here: 'key' is missing"):
        ConfigSection("here", {}).take("key", int)


@pytest.mark.parametrize("value", [0, -3])
def test_counts_are_at_least_one(value: int) -> None:
    with pytest.raises(SubjectError, match="at least 1"):
        ConfigSection("here", {"key": value}).take_optional_positive("key")


@pytest.mark.parametrize("value", [2, True, "1", None])
def test_only_neutral_values_are_allowed(value: object) -> None:
    section = ConfigSection("here", {"key": 1})
    section.allow("key", 1, 1.0)
    section.finish()
    with pytest.raises(UnsupportedError, match="here: key = "):
        ConfigSection("here", {"key": value}).allow("key", 1)


def test_what_is_left_is_refused_by_name() -> None:
    section = ConfigSection("here", {"known": 1, "attention_sinks": 4})
    section.ignore("known")
    with pytest.raises(UnsupportedError, match="here: attention_sinks = 4 is not implemented by the reference"):
        section.finish()


@pytest.mark.parametrize("value", [[], 3, ""])
def test_a_section_must_be_a_mapping(value: object) -> None:
    with pytest.raises(SubjectError, match="here: key must be a mapping"):
        ConfigSection("here", {"key": value}).take_section("key")
