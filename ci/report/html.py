"""Results → `report.html`: one self-contained page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report import words
from ci.report.escape import html

if TYPE_CHECKING:
    from ci.report.outcome import Results


def render(results: Results) -> str:
    """The page as text."""
    return f"<!doctype html><meta charset=utf-8><title>{html(words.title(results))}</title>"
