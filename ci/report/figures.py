"""Measured values and times for people: short, and the same in every report. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ci.evidence import Measure


def share(used: float | None) -> str:
    """`10 %` of the tolerance; `12 x` from ten times the limit on."""
    if used is None:
        return "-"
    if not math.isfinite(used):
        return "∞"
    if used >= 10:
        return f"{used:,.0f} x" if used < 1e6 else f"{used:.1e} x"
    return f"{used * 100:.0f} %" if used >= 0.01 else "<1 %"


def margin(used: float | None, before: float | None) -> str:
    """`used 10 % of the tolerance, was 4 %`, or `4,000 x the tolerance`."""
    if used is None:
        return ""
    was = f", was {share(before)}" if before is not None else ""
    return f"{share(used)} the tolerance{was}" if used >= 10 else f"used {share(used)} of the tolerance{was}"


def number(value: float | str | None) -> str:
    """A measured value: short, and as text where it is not a number."""
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def worst(measure: Measure) -> str:
    """`float32 (2, 32): error 3.1e-01, limit 7.8e-05, floor 2.0e-07; at (0, 3) expected 0.12, got -0.4`."""
    shape = ", ".join(map(str, measure.shape))
    floor = f", floor {measure.floor:.1e}" if measure.floor is not None else ""
    where = ", ".join(map(str, measure.worst_index))
    values = f"; at ({where}) expected {number(measure.expected)}, got {number(measure.actual)}"
    case = f", input {measure.case}" if measure.case else ""
    return (
        f"{measure.dtype} ({shape}){case}: error {measure.error:.1e}, limit {measure.limit:.1e}{floor}"
        f"{values if measure.worst_index else ''}"
    )


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
