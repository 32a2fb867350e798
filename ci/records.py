"""Frozen dataclasses as JSON: written with the standard library, read back with validation.

A subject's worker may have no library but the standard one, so records are plain dataclasses. pydantic validates what
is read, in hub-tests' own process only.
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from typing import Any, TypeVar, cast

from ci.errors import HubTestsError, RequestError

T = TypeVar("T")

_KIND = re.compile(r"int|float|str|bool|literal\[.*\]", re.DOTALL)
"""The last part of the place of a problem that pydantic has with one kind of several, not with a key."""

NON_FINITE = {"ser_json_inf_nan": "strings"}
"""Set as `__pydantic_config__` on a record whose floats may be NaN or infinite: pydantic would write null."""

STRICT = {"extra": "forbid", **NON_FINITE}
"""Set as `__pydantic_config__` on a record that refuses unknown keys."""


def to_dict(record: Any) -> dict[str, Any]:
    """Return a record as plain JSON values; tuples stay tuples, which JSON writes as lists."""
    return dataclasses.asdict(record)


def to_json(record: Any, *, indent: int | None = None) -> str:
    """Return a record, or a list of records, as JSON text.

    NaN and infinity become strings, because JSON has neither.
    """
    plain = [to_dict(r) for r in record] if isinstance(record, list | tuple) else to_dict(record)
    return json.dumps(_replace_non_finite(plain), indent=indent, default=str)


def read_json(kind: type[T], text: str | bytes, *, what: str, error: type[HubTestsError] = RequestError) -> T:
    """Read a record of `kind` from JSON text; `what` names the text in the error."""
    from pydantic import ValidationError

    try:
        return cast("T", _make_validator(cast("Any", kind)).validate_json(text))
    except ValidationError as invalid:
        raise error(f"{what}: {first_problem(invalid)}") from None


def read_dict(kind: type[T], data: Any, *, what: str, error: type[HubTestsError] = RequestError) -> T:
    """Read a record of `kind` from plain values; `what` names them in the error."""
    from pydantic import ValidationError

    try:
        return cast("T", _make_validator(cast("Any", kind)).validate_python(data))
    except ValidationError as invalid:
        raise error(f"{what}: {first_problem(invalid)}") from None


def first_problem(invalid: Any) -> str:
    """Return the first problem of a pydantic ValidationError as `key.path: message, got value`.

    Where none of several kinds fits a value, the messages of all of them. A key that is missing has no value.
    """
    problems = invalid.errors(include_url=False)
    where, messages = problems[0]["loc"], [problems[0]["msg"]]
    same = [one for one in problems if where and one["loc"][:-1] == where[:-1]]
    kinds = [one["msg"] for one in same if _KIND.fullmatch(str(one["loc"][-1]))]
    if len(kinds) > 1:
        where, messages = where[:-1], list(dict.fromkeys(kinds))
    got = "" if problems[0]["type"] == "missing" else f", got {problems[0]['input']!r}"
    return f"{'.'.join(map(str, where)) or 'value'}: {', or '.join(messages)}{got}"[:500]


@cache
def _make_validator(kind: Any) -> Any:
    """Return pydantic's inner validator: `TypeAdapter.validate_json` takes twice as long, as it inspects its caller."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validator


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    return [_replace_non_finite(item) for item in value] if isinstance(value, list | tuple) else value
