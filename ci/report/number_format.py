"""Numbers as people read them: counts, times, measured values and shares of a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.units import format_share, format_share_of_limit

if TYPE_CHECKING:
    from ci.evidence import Measure


def pluralize(number: int, noun: str) -> str:
    """Return the number with its noun: `1 model`, `3 models`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_used_tolerance(used: float | None, before: float | None) -> str:
    """Format error / limit in words, with the baseline's.

    `10 % of the limit, was 4 %`, or `4,000 x the limit`.
    """
    if used is None:
        return ""
    was = f", was {format_share(before)}" if before is not None else ""
    return f"{format_share_of_limit(used)}{was}"


def format_number(value: float | str | None) -> str:
    """Format a measured value: short, or as text if it is not a number."""
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def format_measure(measure: Measure) -> str:
    """Format one measure in one line.

    `float32 (2, 32): error 3.1e-01, limit 7.8e-05, noise floor 2.0e-07; at (0, 3) expected 0.12, got -0.4`

    Error and limit are the pair whose quotient is `Measure.used`: the tensor's, or those of its worst token.
    """
    shape = ", ".join(map(str, measure.shape))
    floor = f", noise floor {measure.floor:.1e}" if measure.floor is not None else ""
    where = ", ".join(map(str, measure.worst_index))
    values = f"; at ({where}) expected {format_number(measure.expected)}, got {format_number(measure.actual)}"
    case = f", input {measure.case}" if measure.case else ""
    error, limit = measure.decisive
    of_token = "of the worst token " if measure.decided_by_token else ""
    return (
        f"{measure.dtype} ({shape}){case}: error {of_token}{error:.1e}, limit {limit:.1e}{floor}"
        f"{values if measure.worst_index else ''}"
    )


def format_duration(seconds: float) -> str:
    """Format a time: `0.4 s`, `42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
