"""The drawings: points in order and within the frame, the error along the residual stream, NaN at the top."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ci.evidence import Heat, ServedGap
from ci.report import charts
from tests.ci.report.samples import heat, measures

FLOAT32 = measures(wrong_from="decoder.1.mixer.query")[:23]
UPPER, LOWER = charts.TOP, charts.HEIGHT - charts.BOTTOM


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    """The corners of a line of the chart."""
    line = re.search(rf'<polyline class="{kind}" points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line[1].split())] if line else []


def test_points_are_in_order_and_within_the_frame() -> None:
    svg = charts.draw_error_chart(FLOAT32)
    for kind in ("floor", "limit"):
        drawn = points(svg, kind)
        assert len(drawn) == len(FLOAT32)
        assert [x for x, _ in drawn] == sorted({x for x, _ in drawn})
        assert drawn[0][0] > charts.LEFT
        assert charts.WIDTH - charts.RIGHT - 15 < drawn[-1][0] < charts.WIDTH - charts.RIGHT
        assert all(UPPER <= y <= LOWER for _, y in drawn)
    assert points(svg, "limit")[0][1] < points(svg, "floor")[0][1]


def test_growth_follows_the_residual_stream_only() -> None:
    stream = [m for m in FLOAT32 if m.tensor in ("embeddings", "decoder.0", "decoder.1", "final_norm", "logits")]
    assert len(points(charts.draw_error_chart(FLOAT32), "growth")) == len(stream) == 5


def test_a_served_export_is_drawn_over_its_original() -> None:
    gap = ServedGap("batch", "bfloat16", (0, 2, 4), (0.0, 0.01, 0.02), (0.0, 0.01, 0.9))
    svg = charts.draw_served_chart(gap)
    original, export = points(svg, "floor"), points(svg, "growth")
    assert original[:2] == export[:2]
    assert UPPER <= export[2][1] < original[2][1] < original[1][1] <= LOWER
    hostile = replace(gap, positions=tuple(range(10_000)), export=(float("nan"),) * 10_000)
    assert len(points(charts.draw_served_chart(hostile), "growth")) == charts.HEAT_CELLS
    assert "<polyline" not in charts.draw_served_chart(replace(gap, positions=(), original=(), export=()))


def test_a_decade_is_as_high_as_any_other() -> None:
    scale = charts.Scale(-8, 0)
    assert scale.y(1.0) == UPPER
    assert scale.y(1e-8) == LOWER
    assert scale.y(1e-4) == (UPPER + LOWER) / 2


@pytest.mark.parametrize(
    ("value", "y"), [(0.0, LOWER), (-1.0, LOWER), (float("inf"), UPPER), (float("nan"), UPPER), (1e9, UPPER)]
)
def test_a_value_outside_of_the_scale_is_drawn_at_its_edge(value: float, y: float) -> None:
    assert charts.Scale(-8, 0).y(value) == y


@pytest.mark.parametrize(("low", "most"), [(1e-7, 9), (1e-30, 9)])
def test_the_axis_names_few_decades(low: float, most: int) -> None:
    svg = charts.draw_error_chart([replace(FLOAT32[0], error=low), replace(FLOAT32[1], error=1.0)])
    assert 2 <= len(re.findall(r">1e-?\d+</text>", svg)) <= most


def test_layers_are_named_where_they_begin() -> None:
    svg = charts.draw_error_chart(FLOAT32)
    names = re.findall(r'<text x="([\d.]+)"[^>]*>(L0|L1|out)</text>', svg)
    assert [name for _, name in names] == ["L0", "L1", "out"]
    assert sorted(float(x) for x, _ in names) == [float(x) for x, _ in names]


@pytest.mark.parametrize("worst", range(23))
def test_the_name_of_the_worst_tensor_is_beside_the_title_of_the_axis(worst: int) -> None:
    long = [replace(m, tensor=f"decoder.{at}.mlp.router_top_experts") for at, m in enumerate(FLOAT32)]
    long[worst] = replace(long[worst], error=long[worst].limit * 1e5)
    (x, anchor, name), *_ = re.findall(
        r'<text x="([\d.]+)" y="11" text-anchor="(\w+)">([^<]*)<', charts.draw_error_chart(long)
    )
    length = charts.CHARACTER * len(name)
    left = float(x) - length * (anchor == "end")
    assert left >= charts.LEFT - 0.1
    assert left + length <= charts.WIDTH + 0.1


def test_every_cell_of_a_heat_map_is_inside_it() -> None:
    known = heat(wrong_from=2)
    svg = charts.draw_heat_map(known)
    frame = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
    assert frame is not None
    cells = [(int(x), int(y), int(w), int(h)) for x, y, w, h in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)", svg)]
    assert len(cells) == len(known.rows) * len(known.columns)
    assert max(x + w for x, _, w, _ in cells) <= int(frame[1])
    assert max(y + h for _, y, _, h in cells) <= int(frame[2]) - 14
    assert len(set(cells)) == len(cells)


def test_names_beside_a_heat_map_are_short_enough() -> None:
    rows = ("vision_encoder.embeddings", "vision_encoder.encoder.11", "vision_encoder.adapter", "decoder.0")
    svg = charts.draw_heat_map(Heat("batch", "float32", rows, (0,), ((0.0,),) * 4))
    assert [name for name in re.findall(r">([a-z][^<]*)</text>", svg) if name != "token"] == [
        *("vision embeddings", "vision 11", "vision adapter", "decoder.0")
    ]


def test_a_chart_marks_errors_above_their_limit() -> None:
    svg = charts.draw_error_chart(measures(wrong_from="decoder.1.mixer.query")[:23])
    assert svg.count('class="bad"') == 11
    assert svg.count('class="good"') == 12
    assert 'class="floor"' in svg
    assert 'class="limit"' in svg


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300, float("inf"), float("nan"), -1.0])
def test_a_chart_takes_any_number(value: float) -> None:
    known = measures()[:3]
    svg = charts.draw_error_chart((*known, replace(known[0], error=value, limit=value, floor=value)))
    assert "nan" not in re.sub(r"<title>.*?</title>", "", svg)
    assert all(0 <= float(y) <= charts.HEIGHT for y in re.findall(r'cy="([^"]*)"', svg))
    assert charts.draw_error_chart((replace(known[0], error=value, limit=value, floor=None),))


def test_a_heat_map_takes_any_shape() -> None:
    nan = float("nan")
    for heat_map in (
        Heat("c", "float32", ("a",), (0,), ((nan,),)),
        Heat("c", "float32", ("a", "b"), (0, 1), ((1.0,),)),
        Heat("<b>", "<i>", ("<x>",) * 500, tuple(range(500)), ((float("inf"),) * 500,) * 500),
    ):
        svg = charts.draw_heat_map(heat_map)
        assert "<x>" not in svg
        assert svg.count("<text") < 60


def test_heat_turns_red_at_the_limit() -> None:
    assert [charts.choose_heat_level(value) for value in (-9.0, -0.01, 0.0, 9.0, float("nan"))] == [0, 4, 5, 8, 8]
