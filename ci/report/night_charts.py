"""A model's nights → inline SVG: the strip of verdicts, and the margin to the tolerance over time.

A drawing contains only numbers, dates and commits, which are escaped; colours are classes of the style sheet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.report.escape import escape_html
from ci.units import format_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.nights import Night

WIDTH, HEIGHT = 440, 170
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 20, 34
CELL, STRIP_HEIGHT = 7, 18
NAMES = {
    -4: "0.01 %",
    -3: "0.1 %",
    -2: "1 %",
    -1: "10 %",
    0: "limit",
    1: "10 x",
    2: "100 x",
    3: "1,000 x",
    4: "10,000 x",
}


@dataclass(frozen=True)
class Axis:
    """The logarithmic axis of error / limit, from 10**low to 10**high; the limit is 10**0."""

    low: int
    high: int

    def y(self, used: float) -> float:
        """Return the y coordinate of a share, kept within the axis; NaN is at the top."""
        exponent = math.log10(used) if 0 < used < math.inf else (self.low if used <= 0 else self.high)
        share = (min(max(exponent, self.low), self.high) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def choose_axis(nights: Sequence[Night]) -> Axis:
    """Choose the decades that hold every night and the limit."""
    known = [math.log10(night.used) for night in nights if night.used is not None and 0 < night.used < math.inf]
    low, high = math.floor(min(known, default=-1)), math.ceil(max(known, default=0))
    return Axis(min(max(low, -4), -1), max(min(high, 4), 1))


def draw_strip(nights: Sequence[Night]) -> str:
    """Draw one cell for each night, coloured by its verdict; what changed before it is a mark below."""
    parts = []
    for at, night in enumerate(nights):
        told = f"{night.date} {night.verdict}" + (f"; {'; '.join(night.changes)}" if night.changes else "")
        kind = night.verdict if night.verdict in ("passed", "failed") else "neutral"
        shape = {"passed": "v12", "failed": "v12", "neutral": "v6"}[kind]
        parts.append(
            f'<path class="night {kind}" d="M{at * CELL} 0h{CELL - 1}{shape}h-{CELL - 1}z">'
            f"<title>{escape_html(told, 400)}</title></path>"
        )
        if night.changes:
            parts.append(f'<path class="mark" d="M{at * CELL + 1} 14h{CELL - 3}v3h-{CELL - 3}z"/>')
    failed = sum(night.verdict == "failed" for night in nights)
    label = f"{len(nights)} nights, {failed} failed"
    width = max(len(nights), 1) * CELL
    return (
        f'<svg class="strip" viewBox="0 0 {width} {STRIP_HEIGHT}" width="{width}" height="{STRIP_HEIGHT}" role="img" '
        f'aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'
    )


def draw_margins(nights: Sequence[Night]) -> str:
    """Draw each night's error / limit on a logarithmic axis, and lines where something changed."""
    step = (WIDTH - LEFT - RIGHT) / max(len(nights), 1)
    xs = [round(LEFT + step * (at + 0.5), 1) for at in range(len(nights))]
    axis = choose_axis(nights)
    parts = [_draw_axis(axis)]
    for x, night in zip(xs, nights, strict=True):
        if night.changes:
            told = escape_html(f"{night.date}: {'; '.join(night.changes)}", 400)
            parts.append(f'<path class="change" d="M{x} {TOP}V{HEIGHT - BOTTOM}"><title>{told}</title></path>')
    points = [(x, axis.y(night.used), night) for x, night in zip(xs, nights, strict=True) if night.used is not None]
    if len(points) > 1:
        parts.append(f'<polyline class="growth" points="{" ".join(f"{x},{y}" for x, y, _ in points)}"/>')
    parts += [_draw_point(x, y, night) for x, y, night in points]
    if nights:
        parts.append(_text(LEFT, HEIGHT - 18, nights[0].date, "start"))
        parts.append(_text(WIDTH - RIGHT, HEIGHT - 18, nights[-1].date, "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "night", "middle"))
    label = f"Largest error / limit in each of {len(nights)} nights"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" preserveAspectRatio="xMinYMin meet">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def _draw_axis(axis: Axis) -> str:
    lines = [_text(4, 11, "error / limit", "start")]
    for exponent in range(axis.low, axis.high + 1):
        y, name = axis.y(10.0**exponent), NAMES[exponent]
        kind = "limit" if exponent == 0 else "grid"
        lines.append(f'<path class="{kind}" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>{_text(LEFT - 6, y + 3.5, name, "end")}')
    return "".join(lines)


def _draw_point(x: float, y: float, night: Night) -> str:
    told = escape_html(f"{night.date} {night.sha[:12]}: {format_share(night.used or 0.0)} of the limit", 200)
    if night.verdict == "failed":
        return f'<path class="bad" d="M{x - 3} {y - 3}l6 6m0 -6l-6 6"><title>{told}</title></path>'
    return f'<circle class="good" cx="{x}" cy="{y}" r="2.5"><title>{told}</title></circle>'


def _text(x: float, y: float, content: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape_html(content, 60)}</text>'
