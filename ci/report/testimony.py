"""The Evidence that a test left in JUnit, read back as hostile input: cleaned, capped, validated, or refused."""

from __future__ import annotations

import json
from typing import Any

from ci.errors import RequestError
from ci.evidence import Evidence
from ci.records import read_dict, read_json
from ci.report.escape import clean, clip
from ci.report.limits import INPUT, InputLimits

_KNOWN: set[str] = set()
"""Strings that cleaning leaves as they are. A cache: it changes how long reading takes, never what is read."""

_KNOWN_MOST = 100_000


def read_evidence(text: str, limits: InputLimits = INPUT) -> Evidence:
    """The Evidence in `text`. Raises RequestError, in one line, for anything that is not one or is too much."""
    if len(text) > limits.evidence_chars:
        raise RequestError(f"evidence longer than {limits.evidence_chars} characters")
    if _harmless(text, limits):
        evidence = read_json(Evidence, text, what="evidence")
    else:
        evidence = read_dict(Evidence, _cleaned(text, limits), what="evidence")
    if len(evidence.measures) > limits.evidence_items:
        raise RequestError(f"evidence with more than {limits.evidence_items} measures")
    return evidence


def _harmless(text: str, limits: InputLimits) -> bool:
    """Whether cleaning can change nothing: plain ASCII without escapes, and every string in it clean already.

    As nothing is escaped, the strings are every second piece between quotes; most are known from the test before.
    """
    if not text.isascii() or "\\" in text:
        return False
    unknown = set(text.split('"')[1::2]) - _KNOWN
    if any(len(word) > limits.message_chars or clean(word) != word for word in unknown):
        return False
    if len(_KNOWN) < _KNOWN_MOST:
        _KNOWN.update(unknown)
    return True


def _cleaned(text: str, limits: InputLimits) -> Any:
    try:
        return _clean(json.loads(text), [limits.evidence_items * 16], limits)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"evidence is not JSON: {type(error).__name__}") from None


def _clean(value: Any, budget: list[int], limits: InputLimits) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise RequestError("evidence with too many values")
    if isinstance(value, str):
        return clip(clean(value), limits.message_chars)
    if isinstance(value, dict):
        return {clip(clean(key), limits.name_chars): _clean(item, budget, limits) for key, item in value.items()}
    return [_clean(item, budget, limits) for item in value] if isinstance(value, list) else value
