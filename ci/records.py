"""Frozen records between rooms: plain frozen dataclasses, printed as JSON and read back through validation.

Records are stdlib dataclasses so that a subject's worker needs nothing but the standard library to speak them;
pydantic validates on the way back in, in the judge's process only.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from typing import Any, TypeVar, cast

from ci.errors import HubTestsError, RequestError

T = TypeVar("T")

NON_FINITE = {"ser_json_inf_nan": "strings"}
"""Set as `__pydantic_config__` on a record whose floats may be NaN or infinite: pydantic would write null."""

STRICT = {"extra": "forbid", **NON_FINITE}
"""Set as `__pydantic_config__` on a record that refuses unknown keys."""


def to_dict(record: Any) -> dict[str, Any]:
    """One record as plain JSON values (tuples become lists on the way out through `to_json`)."""
    return dataclasses.asdict(record, dict_factory=_json_values)


def to_json(record: Any, *, indent: int | None = None) -> str:
    """A record, or a list of records, as JSON text. NaN and infinity become strings: JSON has neither."""
    plain = [to_dict(r) for r in record] if isinstance(record, list | tuple) else to_dict(record)
    return json.dumps(_finite(plain), indent=indent, default=str)


def read_json(kind: type[T], text: str | bytes, *, what: str, error: type[HubTestsError] = RequestError) -> T:
    """Validate JSON text into a record of `kind`; `what` names the text in the one-line error."""
    from pydantic import ValidationError

    try:
        return cast("T", _validator(cast("Any", kind)).validate_json(text))
    except ValidationError as invalid:
        raise error(f"{what}: {first_problem(invalid)}") from None


def read_dict(kind: type[T], data: Any, *, what: str, error: type[HubTestsError] = RequestError) -> T:
    """Validate plain values into a record of `kind`."""
    from pydantic import ValidationError

    try:
        return cast("T", _validator(cast("Any", kind)).validate_python(data))
    except ValidationError as invalid:
        raise error(f"{what}: {first_problem(invalid)}") from None


def first_problem(invalid: Any) -> str:
    """The first problem of a pydantic ValidationError as `key.path: message, got value`."""
    problem = invalid.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where or 'value'}: {problem['msg']}, got {problem['input']!r}"[:500]


@cache
def _validator(kind: Any) -> Any:
    """pydantic's validator itself: `TypeAdapter.validate_json` looks at its caller first, which takes as long again."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validator


def _json_values(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(items)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
