"""Which known name is suggested for an unknown one."""

from __future__ import annotations

import pytest

from ci.spelling import suggest_name


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [("mixtrl", " Did you mean 'Mixtral'?"), ("MIXTRAL", " Did you mean 'Mixtral'?"), ("xyz", "")],
)
def test_a_close_name_is_suggested_whatever_its_case(word: str, suggestion: str) -> None:
    assert suggest_name(word, ["llama", "Mixtral"]) == suggestion


def test_nothing_known_suggests_nothing() -> None:
    assert suggest_name("llama", []) == ""
