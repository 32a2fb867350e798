"""Parse the Evidence that a test wrote into JUnit. The text can be an attack: it is cleaned, limited and validated."""

from __future__ import annotations

import json
from typing import Any

from ci.errors import RequestError
from ci.evidence import Evidence
from ci.records import read_dict, read_json
from ci.report.escape import clean, clip
from ci.report.limits import INPUT, InputLimits

_CLEAN_STRINGS: set[str] = set()
"""A cache of strings that cleaning does not change. It saves time and never changes the result."""

_CLEAN_STRINGS_MAX = 100_000


def parse_evidence(text: str, limits: InputLimits = INPUT) -> Evidence:
    """Return the Evidence in `text`.

    Raises RequestError, in one line, for text that is not an Evidence or is over a limit.
    """
    if len(text) > limits.evidence_chars:
        raise RequestError(f"evidence longer than {limits.evidence_chars} characters")
    if _is_clean(text, limits):
        evidence = read_json(Evidence, text, what="evidence")
    else:
        evidence = read_dict(Evidence, _load_cleaned(text, limits), what="evidence")
    if len(evidence.measures) > limits.evidence_items:
        raise RequestError(f"evidence with more than {limits.evidence_items} measures")
    return evidence


def _is_clean(text: str, limits: InputLimits) -> bool:
    """Return whether cleaning would change nothing in the text.

    The text is plain ASCII without escapes, and every string in it is clean already. Without escapes, every second
    piece between quotes is a string. Most strings are known from the test before.
    """
    if not text.isascii() or "\\" in text:
        return False
    unknown = set(text.split('"')[1::2]) - _CLEAN_STRINGS
    if any(len(word) > limits.message_chars or clean(word) != word for word in unknown):
        return False
    if len(_CLEAN_STRINGS) < _CLEAN_STRINGS_MAX:
        _CLEAN_STRINGS.update(unknown)
    return True


class _Budget:
    """A limit on the number of values in one evidence."""

    def __init__(self, values: int) -> None:
        self._left = values

    def spend(self) -> None:
        """Count one value. Raises RequestError when the limit is exceeded."""
        self._left -= 1
        if self._left < 0:
            raise RequestError("evidence with too many values")


def _load_cleaned(text: str, limits: InputLimits) -> Any:
    try:
        return _clean_values(json.loads(text), _Budget(limits.evidence_items * 16), limits)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"evidence is not JSON: {type(error).__name__}") from None


def _clean_values(value: Any, budget: _Budget, limits: InputLimits) -> Any:
    budget.spend()
    if isinstance(value, str):
        return clip(clean(value), limits.message_chars)
    if isinstance(value, dict):
        return {clip(clean(key), limits.name_chars): _clean_values(item, budget, limits) for key, item in value.items()}
    return [_clean_values(item, budget, limits) for item in value] if isinstance(value, list) else value
