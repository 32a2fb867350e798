"""The Evidence that a test left in JUnit, read back as hostile input: cleaned, capped, validated, or refused."""

from __future__ import annotations

import json
from typing import Any

from ci.errors import RequestError
from ci.evidence import Evidence
from ci.records import read_dict
from ci.report.escape import clean, clip
from ci.report.limits import INPUT, InputLimits


def read_evidence(text: str, limits: InputLimits = INPUT) -> Evidence:
    """The Evidence in `text`. Raises RequestError, in one line, for anything that is not one or is too much."""
    if len(text) > limits.evidence_chars:
        raise RequestError(f"evidence longer than {limits.evidence_chars} characters")
    try:
        plain = json.loads(text)
        cleaned = _clean(plain, [limits.evidence_items * 16], limits)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"evidence is not JSON: {type(error).__name__}") from None
    evidence = read_dict(Evidence, cleaned, what="evidence")
    if len(evidence.measures) > limits.evidence_items:
        raise RequestError(f"evidence with more than {limits.evidence_items} measures")
    return evidence


def _clean(value: Any, budget: list[int], limits: InputLimits) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise RequestError("evidence with too many values")
    if isinstance(value, str):
        return clip(clean(value), limits.message_chars)
    if isinstance(value, dict):
        return {clip(clean(key), limits.name_chars): _clean(item, budget, limits) for key, item in value.items()}
    return [_clean(item, budget, limits) for item in value] if isinstance(value, list) else value
