"""JSON from the network: what is accepted, and what is refused in one line."""

from __future__ import annotations

import pytest

from ci.errors import InfrastructureError
from ci.hub.strict_json import parse_object


def test_an_object_is_returned_with_its_order_and_text() -> None:
    assert parse_object('{"b": [1, 2.5, null], "a": {"é": "\\u00e9"}}'.encode(), what="x") == {
        "b": [1, 2.5, None],
        "a": {"é": "é"},
    }
    assert parse_object(b"{}", what="x") == {}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b'"a"', "expected a JSON object, got str"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "b": 2, "b": 3}', "duplicate key 'b'"),
        (b'{"x": {"a": 1, "b": 1, "b": 2, "a": 2, "b": 3}}', "duplicate key 'b'"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_everything_else_is_refused_in_one_line(data: bytes, problem: str) -> None:
    with pytest.raises(InfrastructureError, match=problem) as refused:
        parse_object(data, what="owner/model index")
    assert str(refused.value).startswith("owner/model index: ")
    assert "\n" not in str(refused.value)
