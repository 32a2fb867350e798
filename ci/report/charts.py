"""Measures → inline SVG: the error of each tensor with noise floor and limit; a heat map by layer and token.

A drawing contains only numbers and tensor names, which are escaped. Colours are classes of the page's style sheet, so
the same drawing works in light mode, in dark mode and in print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.report.escape import clip, escape_html
from ci.report.number_format import format_measure, format_used_tolerance
from ci.tensor_names import EMBEDDINGS, is_block_level, layer_of, shorten_vision_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.evidence import Heat, Measure, ServedGap

WIDTH, HEIGHT = 440, 216
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 24, 34
CHARACTER = 6.0
"""Pixels of a character of a label, at most on average."""
NAME = 60
"""Characters of the name in the top line, which fits beside the axis's title."""
TENSORS = 400
"""A chart shows at most this many tensors: with more, a point is narrower than a pixel."""

HEAT_STEPS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Borders of the heat map's colours, log10(error / limit). From 0 on the colour is red."""

HEAT_CELLS = 80
"""The most rows and columns of a heat map. The suite writes fewer; more can only be an attack."""

_CELL_W, _CELL_H = 12, 13


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from 10**low to 10**high, drawn between TOP and HEIGHT - BOTTOM."""

    low: int
    high: int

    def y(self, value: float) -> float:
        """Return the y coordinate of a value, kept within the axis; NaN is at the top."""
        exponent = math.log10(value) if 0 < value < math.inf else (self.low if value <= 0 else self.high)
        share = (min(max(exponent, self.low), self.high) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def draw_error_chart(measures: Sequence[Measure], scale: Scale | None = None) -> str:
    """Draw the error of each tensor, with noise floor and limit.

    Tensors are in execution order, the scale is logarithmic; charts with the same `scale` can be compared. The residual
    stream's line shows where an error began. The tensor that is nearest to its limit, or farthest above, is named.
    """
    shown = list(measures[:TENSORS])
    scale = scale or choose_scale(shown)
    step = (WIDTH - LEFT - RIGHT) / max(len(shown), 1)
    xs = [round(LEFT + step * (index + 0.5), 1) for index in range(len(shown))]
    red = sum(not measure.passed for measure in shown)
    label = f"Error of each tensor with noise floor and limit; {red} of {len(shown)} above the limit"
    parts = [_draw_grid(scale), _draw_layers(shown, xs, step)]
    parts.append(_draw_line("floor", [(x, scale.y(m.floor)) for x, m in zip(xs, shown, strict=True) if m.floor]))
    parts.append(_draw_line("limit", [(x, scale.y(m.limit)) for x, m in zip(xs, shown, strict=True) if m.limit]))
    parts.append(
        _draw_line(
            "growth", [(x, scale.y(m.error)) for x, m in zip(xs, shown, strict=True) if is_block_level(m.tensor)]
        )
    )
    parts += [_draw_point(x, scale.y(m.error), m) for x, m in zip(xs, shown, strict=True)]
    parts += [_draw_axis_titles(), _name_worst(xs, shown)]
    return _wrap_svg(WIDTH, HEIGHT, label, "".join(parts))


def choose_scale(measures: Sequence[Measure]) -> Scale:
    """Choose the decades that hold every error, limit and noise floor."""
    return _choose_scale([value for m in measures[:TENSORS] for value in (m.error, m.limit, m.floor or 0.0)])


def _draw_axis_titles() -> str:
    return _draw_text(2, 10, "error", "start") + _draw_text(WIDTH - RIGHT, HEIGHT - 4, "tensor, by layer", "end")


def _name_worst(xs: Sequence[float], measures: Sequence[Measure]) -> str:
    """Draw the name of the tensor with the largest error / limit, and a line down to it."""
    if not measures:
        return ""
    at = max(range(len(measures)), key=lambda index: (not measures[index].passed, measures[index].used))
    x, anchor = xs[at], "start" if xs[at] < WIDTH / 2 else "end"
    name = clip(f"{measures[at].tensor} {format_used_tolerance(measures[at].used, None)}", NAME)
    length = len(name) * CHARACTER
    text_x = min(x, WIDTH - length) if anchor == "start" else max(x, LEFT + length)  # beside the axis's title
    return f'<path class="change" d="M{x} {TOP - 8}V{HEIGHT - BOTTOM}"/>{_draw_text(text_x, TOP - 13, name, anchor)}'


def draw_heat_map(heat: Heat) -> str:
    """Draw the largest error / limit for each layer and each bin of tokens."""
    rows, columns = heat.rows[:HEAT_CELLS], heat.columns[:HEAT_CELLS]
    width, height = 130 + len(columns) * _CELL_W + 8, 20 + len(rows) * _CELL_H + 18
    label = f"Error / limit by layer and token for the input {heat.case} in {heat.dtype}"
    names = [
        _draw_text(124, 30 + at * _CELL_H, shorten_vision_name(rows[at]), "end")
        for at in range(0, len(rows), math.ceil(len(rows) / 33))
    ]
    steps = range(0, len(columns), max(1, len(columns) // 6))
    tokens = [_draw_text(130 + at * _CELL_W, height - 5, str(columns[at]), "start") for at in steps]
    body = "".join([_draw_heat_cells(heat), *names, *tokens, _draw_text(130, 13, "token", "start")])
    return _wrap_svg(width, height, label, body).replace(
        "<svg ", f'<svg class="heat" width="{width}" height="{height}" ', 1
    )


def draw_served_chart(gap: ServedGap, limit: float | None = None) -> str:
    """Draw the largest |Δ log p| of an engine to Hugging Face by position: original, export, a token's limit."""
    places, original, export = (values[:HEAT_CELLS] for values in (gap.positions, gap.original, gap.export))
    scale = _choose_scale([*original, *export, limit or 0.0])
    step = (WIDTH - LEFT - RIGHT) / max(len(places), 1)
    xs = [round(LEFT + step * (index + 0.5), 1) for index in range(len(places))]
    marks = range(0, len(places), max(1, len(places) // 6))
    parts = [_draw_grid(scale)]
    parts += [_draw_text(xs[at], HEIGHT - BOTTOM + 14, str(places[at]), "middle") for at in marks]
    if limit:
        parts.append(f'<path class="limit" d="M{LEFT} {scale.y(limit)}H{WIDTH - RIGHT}"/>')
    parts += [_draw_text(2, 10, "nats", "start"), _draw_text(WIDTH - RIGHT, HEIGHT - 4, "token position", "end")]
    for kind, values in (("growth", export), ("floor", original)):
        parts.append(_draw_line(kind, [(x, scale.y(value)) for x, value in zip(xs, values, strict=False)]))
    label = f"Difference of log-probabilities by token position in {gap.dtype}: original and export"
    return _wrap_svg(WIDTH, HEIGHT, label, "".join(parts))


def choose_heat_level(value: float) -> int:
    """Return the colour of a heat value, 0 the coolest.

    From HEAT_STEPS.index(0.0) + 1 on the error is above the limit.
    """
    return sum(value >= border for border in HEAT_STEPS) if math.isfinite(value) else len(HEAT_STEPS)


def _draw_heat_cells(heat: Heat) -> str:
    """Draw one path for each colour, a tenth of the size of single cells."""
    paths: dict[int, list[str]] = {}
    for row, values in enumerate(heat.values[:HEAT_CELLS]):
        for column, value in enumerate(values[:HEAT_CELLS]):
            at = f"M{130 + column * _CELL_W} {20 + row * _CELL_H}h{_CELL_W}v{_CELL_H}h-{_CELL_W}z"
            paths.setdefault(choose_heat_level(value), []).append(at)
    return "".join(f'<path class="heat{level}" d="{"".join(paths[level])}"/>' for level in sorted(paths))


def _choose_scale(values: Iterable[float]) -> Scale:
    known = [math.log10(value) for value in values if 0 < value < math.inf]
    low, high = (math.floor(min(known)), math.ceil(max(known))) if known else (-8, 0)
    return Scale(max(low, -40), min(max(high, low + 1), 40)) if low < 40 else Scale(39, 40)


def _draw_grid(scale: Scale) -> str:
    every = max(1, math.ceil((scale.high - scale.low) / 8))
    lines = []
    for exponent in range(scale.low, scale.high + 1, every):
        y = scale.y(10.0**exponent)
        lines.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        lines.append(_draw_text(LEFT - 6, y + 3.5, f"1e{exponent}", "end"))
    return "".join(lines)


def _draw_layers(measures: Sequence[Measure], xs: Sequence[float], step: float) -> str:
    """Draw a separator and a name at the beginning of each layer."""
    parts, before, last = [], None, -40.0
    for measure, x in zip(measures, xs, strict=True):
        layer = _name_layer(measure.tensor)
        if layer == before:
            continue
        before, left = layer, round(x - step / 2, 1)
        parts.append(f'<path class="grid" d="M{left} {TOP}V{HEIGHT - BOTTOM}"/>')
        if layer and left - last > 22:
            parts.append(_draw_text(left + 2, HEIGHT - BOTTOM + 14, layer, "start"))
            last = left
    return "".join(parts)


def _name_layer(tensor: str) -> str:
    """Return the label of a tensor's layer: `L3` for `decoder.3.mixer.query`.

    A tensor after the layers is in `out`; the embeddings before them have no label.
    """
    layer = layer_of(tensor)
    if layer is not None:
        return f"L{layer}"
    return "" if tensor == EMBEDDINGS else "out"


def _draw_line(kind: str, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>' if len(points) > 1 else ""


def _draw_point(x: float, y: float, measure: Measure) -> str:
    tip = escape_html(f"{measure.tensor}: {format_measure(measure)}; {format_used_tolerance(measure.used, None)}", 600)
    if measure.passed:
        return f'<circle class="good" cx="{x}" cy="{y}" r="3"><title>{tip}</title></circle>'
    return f'<path class="bad" d="M{x - 4} {y - 4}l8 8m0 -8l-8 8"><title>{tip}</title></path>'


def _draw_text(x: float, y: float, content: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape_html(content, 60)}</text>'


def _wrap_svg(width: int, height: int, label: str, body: str) -> str:
    name = escape_html(label, 200)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}" '
        f'preserveAspectRatio="xMinYMin meet"><title>{name}</title>{body}</svg>'
    )
