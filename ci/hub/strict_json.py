"""Parse JSON from the network: UTF-8, an object at the top, no duplicate keys, no deep nesting, no NaN."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ci.errors import InfrastructureError


def parse_object(data: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises InfrastructureError, naming `what`, for anything else."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_make_dict, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates, which are not Unicode text
    except RecursionError:
        raise InfrastructureError(f"{what}: JSON nested too deeply; refused") from None
    except ValueError as problem:
        raise InfrastructureError(f"{what}: not valid JSON: {str(problem)[:200]}") from None
    if not isinstance(value, dict):
        raise InfrastructureError(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value


def _make_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dictionary. Raises ValueError for a duplicate key."""
    members = dict(pairs)
    if len(members) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {key!r}")
    return members


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
