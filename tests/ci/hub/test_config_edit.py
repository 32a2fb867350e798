"""Edits of a JSON text that leave everything else as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.errors import InfrastructureError
from ci.hub.config_edit import Edit, Keep, Replace, apply_edits, parse_json

TEXT = """{
  "rope_theta": 1E6,  "eps": 0.00001,
  "name": "caf\\u00e9 \\/",
  "layer_types": [
    "a",
    "b",
    "c"
  ],
  "thetas": [1.0e4, 10000.00,3],
  "nested": {"depth": 3, "by_layer": {"0": 1, "1": {"x": [ ]}, "2": 0.10}},
  "limit": [0.0, Infinity], "none": null
}
"""


def edited(*edits: Edit, text: str = TEXT) -> str:
    return apply_edits(text, parse_json(text, what="config.json"), edits)


def test_no_edit_no_change() -> None:
    assert edited() == TEXT


def test_only_what_is_meant_changes() -> None:
    result = edited(
        Replace(("nested", "depth"), 2),
        Keep(("layer_types",), (0, 1)),
        Keep(("thetas",), (1, 2)),
        Keep(("nested", "by_layer"), ("0", "2")),
    )
    expected = (
        TEXT.replace('"depth": 3', '"depth": 2')
        .replace('"b",\n    "c"', '"b"')
        .replace("[1.0e4, 10000.00,3]", "[10000.00, 3]")
        .replace('{"0": 1, "1": {"x": [ ]}, "2": 0.10}', '{"0": 1, "2": 0.10}')
    )
    assert result == expected


@pytest.mark.parametrize(("edit", "value"), [(Keep(("thetas",), ()), []), (Keep(("nested", "by_layer"), ()), {})])
def test_nothing_kept_is_an_empty_container(edit: Keep, value: Any) -> None:
    result: Any = json.loads(edited(edit))
    for key in edit.path:
        result = result[key]
    assert result == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "ends too early"),
        ("[1]", "expected a JSON object"),
        ("{", "ends too early"),
        ('{"a": 1,}', "expected a key"),
        ('{"a" 1}', "expected ':'"),
        ('{"a": 1 "b": 2}', "expected ','"),
        ('{"a": 1} x', "text after the end"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": {"b": 1, "b": 1}}', "duplicate key 'b'"),
        ('{"a": [1,]}', "not valid JSON"),
        ('{"a": 01}', "not valid JSON"),
        ('{"a": .5}', "not valid JSON"),
        ('{"a": "x\ny"}', "not valid JSON"),
        ("{'a': 1}", "expected a key"),
        ('{"a": ' + "[" * 1000, "nested too deeply"),
        ('{"a": ' + '{"a":' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "not valid JSON"),
    ],
)
def test_malformed_texts_are_one_line(text: str, problem: str) -> None:
    with pytest.raises(InfrastructureError) as refused:
        parse_json(text, what="m@1 config.json")
    assert problem in str(refused.value)
    assert str(refused.value).startswith("m@1 config.json: ")
    assert "\n" not in str(refused.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), values, max_size=5), st.sampled_from([None, 0, 2]), st.booleans())
def test_reads_what_json_reads(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert parse_json(text, what="x").value == value


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=1, max_size=6), st.data(), st.sampled_from([None, 2]))
def test_keeps_any_choice_of_elements(items: list[Any], data: st.DataObject, indent: int | None) -> None:
    chosen = tuple(sorted(data.draw(st.sets(st.integers(0, len(items) - 1)))))
    text = json.dumps({"before": 1, "list": items, "after": 2}, indent=indent)
    result = json.loads(edited(Keep(("list",), chosen), text=text))
    assert result == {"before": 1, "list": [items[i] for i in chosen], "after": 2}


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), values, min_size=1, max_size=6), st.data(), st.sampled_from([None, 2]))
def test_keeps_any_choice_of_members(members: dict[str, Any], data: st.DataObject, indent: int | None) -> None:
    chosen = tuple(data.draw(st.sets(st.sampled_from(sorted(members)))))
    text = json.dumps({"before": 1, "object": members, "after": 2}, indent=indent)
    result = json.loads(edited(Keep(("object",), chosen), text=text))
    assert result["object"] == {key: value for key, value in members.items() if key in chosen}
    assert list(result["object"]) == [key for key in members if key in chosen]
