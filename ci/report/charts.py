"""Measures → inline SVG: error by tensor against floor and limit, and where in layers and tokens it sits. Pure.

Numbers only, but for tensor names, which are escaped. Colours are classes of the page's style sheet, so that the same
picture works in the light, in the dark and in print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.report import figures
from ci.report.escape import html

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.evidence import Heat, Measure

WIDTH, HEIGHT = 440, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 22
TENSORS = 400
"""A chart shows at most this many tensors; beyond that a point is narrower than a pixel."""

HEAT_STEPS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Borders of the heat map's colours, log10(error / limit): from 0 on it is red."""

HEAT_CELLS = 80
"""Rows and columns of a heat map at most; an honest one has fewer."""

_CELL_W, _CELL_H = 12, 13


@dataclass(frozen=True)
class Scale:
    """Decades of a logarithmic axis, drawn between TOP and HEIGHT - BOTTOM."""

    low: int
    high: int

    def y(self, value: float) -> float:
        """Where a value stands; what is off the scale stands on its edge, what is no number on the upper one."""
        exponent = math.log10(value) if 0 < value < math.inf else (self.low if value <= 0 else self.high)
        share = (min(max(exponent, self.low), self.high) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def error_chart(measures: Sequence[Measure]) -> str:
    """Error of each tensor in execution order, on a log scale, with the reference's floor and the limit."""
    shown = list(measures[:TENSORS])
    scale = _scale([value for m in shown for value in (m.error, m.limit, m.floor or 0.0)])
    step = (WIDTH - LEFT - RIGHT) / max(len(shown), 1)
    xs = [round(LEFT + step * (index + 0.5), 1) for index in range(len(shown))]
    red = sum(not measure.passed for measure in shown)
    label = f"Error by tensor against floor and limit; {red} of {len(shown)} beyond the limit"
    parts = [_grid(scale), _layers(shown, xs, step)]
    parts.append(_line("floor", [(x, scale.y(m.floor)) for x, m in zip(xs, shown, strict=True) if m.floor]))
    parts.append(_line("limit", [(x, scale.y(m.limit)) for x, m in zip(xs, shown, strict=True) if m.limit]))
    parts.append(_line("growth", [(x, scale.y(m.error)) for x, m in zip(xs, shown, strict=True) if _block(m.tensor)]))
    parts += [_point(x, scale.y(m.error), m) for x, m in zip(xs, shown, strict=True)]
    return _svg(WIDTH, HEIGHT, label, "".join(parts))


def heat_chart(heat: Heat) -> str:
    """Token by layer: how far the largest error in each bin of tokens is from the limit."""
    rows, columns = heat.rows[:HEAT_CELLS], heat.columns[:HEAT_CELLS]
    width, height = 130 + len(columns) * _CELL_W + 8, 20 + len(rows) * _CELL_H + 18
    label = f"Error over limit by layer and token of the input {heat.case} in {heat.dtype}"
    names = [_text(124, 30 + at * _CELL_H, rows[at], "end") for at in range(0, len(rows), math.ceil(len(rows) / 33))]
    steps = range(0, len(columns), max(1, len(columns) // 6))
    tokens = [_text(130 + at * _CELL_W, height - 5, str(columns[at]), "start") for at in steps]
    body = "".join([_heat_cells(heat), *names, *tokens, _text(130, 13, "token", "start")])
    return _svg(width, height, label, body).replace("<svg ", f'<svg class="heat" width="{width}" height="{height}" ', 1)


def heat_level(value: float) -> int:
    """The colour of a heat value, 0 the coolest; from HEAT_STEPS.index(0.0) + 1 on it is beyond the limit."""
    return sum(value >= border for border in HEAT_STEPS) if math.isfinite(value) else len(HEAT_STEPS)


def _heat_cells(heat: Heat) -> str:
    """One path a colour instead of one element a cell: a tenth of the size."""
    paths: dict[int, list[str]] = {}
    for row, values in enumerate(heat.values[:HEAT_CELLS]):
        for column, value in enumerate(values[:HEAT_CELLS]):
            at = f"M{130 + column * _CELL_W} {20 + row * _CELL_H}h{_CELL_W}v{_CELL_H}h-{_CELL_W}z"
            paths.setdefault(heat_level(value), []).append(at)
    return "".join(f'<path class="heat{level}" d="{"".join(paths[level])}"/>' for level in sorted(paths))


def _scale(values: Iterable[float]) -> Scale:
    known = [math.log10(value) for value in values if 0 < value < math.inf]
    low, high = (math.floor(min(known)), math.ceil(max(known))) if known else (-8, 0)
    return Scale(max(low, -40), min(max(high, low + 1), 40)) if low < 40 else Scale(39, 40)


def _grid(scale: Scale) -> str:
    every = max(1, math.ceil((scale.high - scale.low) / 8))
    lines = []
    for exponent in range(scale.low, scale.high + 1, every):
        y = scale.y(10.0**exponent)
        lines.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        lines.append(_text(LEFT - 6, y + 3.5, f"1e{exponent}", "end"))
    return "".join(lines)


def _layers(measures: Sequence[Measure], xs: Sequence[float], step: float) -> str:
    """A separator and a name where a new layer begins."""
    parts, before, last = [], None, -40.0
    for measure, x in zip(measures, xs, strict=True):
        scope = _scope(measure.tensor)
        if scope == before:
            continue
        before, left = scope, round(x - step / 2, 1)
        parts.append(f'<path class="grid" d="M{left} {TOP}V{HEIGHT - BOTTOM}"/>')
        if scope and left - last > 22:
            parts.append(_text(left + 2, HEIGHT - BOTTOM + 14, scope, "start"))
            last = left
    return "".join(parts)


def _scope(tensor: str) -> str:
    """`decoder.3.mixer.query` → `L3`; what comes after the layers is `out`, what comes before needs no name."""
    parts = tensor.split(".")
    if len(parts) > 1 and parts[0] == "decoder":
        return f"L{parts[1]}"[:8]
    return "" if tensor == "embeddings" else "out"


def _block(tensor: str) -> bool:
    """Whether a tensor is on the residual stream: its growth by layer tells where an error began."""
    return tensor in ("embeddings", "final_norm", "logits") or tensor.count(".") == 1


def _line(kind: str, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>' if len(points) > 1 else ""


def _point(x: float, y: float, measure: Measure) -> str:
    tip = html(f"{measure.tensor}: {figures.worst(measure)}; {figures.margin(measure.used, None)}", 600)
    if measure.passed:
        return f'<circle class="good" cx="{x}" cy="{y}" r="3"><title>{tip}</title></circle>'
    return f'<path class="bad" d="M{x - 4} {y - 4}l8 8m0 -8l-8 8"><title>{tip}</title></path>'


def _text(x: float, y: float, content: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html(content, 60)}</text>'


def _svg(width: int, height: int, label: str, body: str) -> str:
    name = html(label, 200)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}" '
        f'preserveAspectRatio="xMinYMin meet"><title>{name}</title>{body}</svg>'
    )
