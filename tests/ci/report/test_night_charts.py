"""The drawings of nights: within their frame, on an axis that holds them, and without foreign markup."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from ci.report.night_charts import HEIGHT, TOP, choose_axis, draw_margins, draw_strip
from ci.report.nights import list_models
from tests.ci.report.history_samples import make_history

NIGHTS = {model.name: model.nights for model in list_models(make_history())}


def test_a_strip_has_a_cell_for_each_night() -> None:
    svg = draw_strip(NIGHTS["mixtral"])
    assert svg.count('class="night failed"') == 7
    assert svg.count('class="night passed"') == 38
    assert 'aria-label="45 nights, 7 failed"' in svg


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.5, 3.9e3, 1e30, math.inf, math.nan])
def test_any_margin_is_drawn_within_the_frame(value: float) -> None:
    svg = draw_margins([replace(NIGHTS["smollm2"][0], used=value)])
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert heights
    assert all(TOP <= y <= HEIGHT for y in heights)


def test_the_axis_holds_the_limit_and_every_night() -> None:
    green, red = choose_axis(NIGHTS["smollm2"]), choose_axis(NIGHTS["mixtral"])
    assert (green.low, green.high) == (-2, 1)
    assert (red.low, red.high) == (-1, 4)
    assert green.y(1.0) < green.y(0.1)
    assert "error / limit" in draw_margins(NIGHTS["smollm2"])


def test_hostile_text_stays_text() -> None:
    night = replace(NIGHTS["smollm2"][0], date='"><script>', sha="</svg>", changes=("<img src=x>",))
    for svg in (draw_strip([night]), draw_margins([night, night])):
        assert "<script" not in svg
        assert "<img" not in svg
        assert svg.count("</svg>") == 1
