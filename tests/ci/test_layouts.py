"""Each layout is under its own name and needs the ranks that its name says."""

from __future__ import annotations

import re
from math import prod

import pytest

from ci.layouts import LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_name_tells_the_degrees(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.name == name
    parts = [part for part in name.split("_") if re.fullmatch(r"(s?tp|pp|s?dp|ep)\d|zero\d", part)]
    assert layout.ranks == prod(2 if part.startswith("zero") else int(part[-1]) for part in parts)


def test_a_step_has_a_document_for_each_micro_batch_of_each_copy() -> None:
    assert {name: layout.documents for name, layout in LAYOUTS.items() if layout.documents > 1} == {
        "accumulate2": 2,
        "breadth2": 2,
        "pp2": 2,
        "pp2_tied": 2,
        "dp2": 2,
        "zero2": 2,
        "zero3": 2,
        "ep2": 2,
        "dp2_accumulate2": 4,
        "dp2_tp2": 2,
        "dp2_stp2": 2,
        "stp2_pp2": 2,
        "tp2_zero3": 2,
    }
