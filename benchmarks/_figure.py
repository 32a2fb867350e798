"""A measured figure and its target."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

COMPARE = {"≤": operator.le, "≥": operator.ge, "=": operator.eq}


@dataclass(frozen=True)
class Figure:
    """`what` was `measured`, in `unit` (empty for a ratio), and should be `bound` `target`; `how` says on what."""

    what: str
    measured: float
    bound: Literal["≤", "≥", "="]
    target: float
    unit: str = ""
    how: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return bool(COMPARE[self.bound](self.measured, self.target))


def table(figures: Iterable[Figure]) -> str:
    """Markdown, one figure a row."""
    rows = ["| figure | measured | target | | measured on |", "|---|---:|---:|---|---|"]
    for figure in figures:
        unit = f" {figure.unit}" if figure.unit else ""
        target = f"{figure.bound} {figure.target:g}{unit}"
        verdict = "ok" if figure.met else "**missed**"
        rows.append(f"| {figure.what} | {_digits(figure.measured)}{unit} | {target} | {verdict} | {figure.how} |")
    return "\n".join(rows)


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:#.4g}"


def show(figures: Iterable[Figure]) -> int:
    """Print the table; exit code 1 when a target is missed."""
    measured = list(figures)
    print(table(measured))
    return 0 if all(figure.met for figure in measured) else 1
