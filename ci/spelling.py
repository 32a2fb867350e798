"""Suggests a known name for one that is not known."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def suggest_name(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for a close known name, whatever its case, else ""."""
    folded = {name.casefold(): name for name in reversed([*known])}
    close = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.5)
    return f" Did you mean '{folded[close[0]]}'?" if close else ""
