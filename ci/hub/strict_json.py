"""JSON from strangers: UTF-8 only, an object at the top, no duplicate keys, no absurd nesting or numbers."""

from __future__ import annotations

import json
from typing import Any

from ci.errors import InfrastructureError


def parse_object(data: bytes, *, what: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises InfrastructureError, with `what` as the text's name, for anything else."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no Unicode text
    except RecursionError:
        raise InfrastructureError(f"{what}: JSON nested too deeply; refused") from None
    except ValueError as problem:
        raise InfrastructureError(f"{what}: not valid JSON: {str(problem)[:200]}") from None
    if not isinstance(value, dict):
        raise InfrastructureError(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice!r}")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
