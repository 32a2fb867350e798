"""Reads a configuration so that no key is ignored: each is implemented, known to be inert, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ci.errors import SubjectError, UnsupportedError

T = TypeVar("T", int, float, bool, str, dict[str, Any], list[Any])
_REQUIRED: Any = object()


class Section:
    """One mapping of a configuration; `where` names it in errors. Call `finish` when every key should be taken."""

    def __init__(self, where: str, values: object) -> None:
        if not isinstance(values, Mapping):
            raise SubjectError(f"{where} must be a mapping, got {values!r}"[:300])
        self.where = where
        self._left: dict[str, Any] = dict(values)

    def __bool__(self) -> bool:
        """Whether any key is left."""
        return bool(self._left)

    def take(self, key: str, kind: type[T], default: T = _REQUIRED) -> T:
        """The value of `key`, checked; `default` where it is missing. Raises SubjectError."""
        value = self._left.pop(key, default)
        if value is _REQUIRED:
            raise SubjectError(f"{self.where}: {key!r} is missing")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise SubjectError(f"{self.where}: {key!r} must be {kind.__name__}, got {value!r}"[:300])
        return value

    def take_optional(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """Like `take`, where null is a value of its own (not the default)."""
        if self._left.get(key, default) is None:
            self._left.pop(key, None)
            return None
        return self.take(key, kind, default if default is not None else _REQUIRED)

    def positive(self, key: str, default: int = _REQUIRED) -> int:
        """`take` of an int of at least 1."""
        return self._at_least_one(key, self.take(key, int, default))

    def optional_positive(self, key: str, default: int | None = None) -> int | None:
        """`take_optional` of an int of at least 1."""
        value = self.take_optional(key, int, default)
        return None if value is None else self._at_least_one(key, value)

    def section(self, key: str) -> Section:
        """A nested mapping; empty where missing or null."""
        value = self._left.pop(key, None)
        return Section(f"{self.where}: {key}", {} if value is None else value)

    def allow(self, key: str, *allowed: object) -> None:
        """Refuse `key` by name unless it is missing or one of the values that change nothing here."""
        if key in self._left:
            value = self._left.pop(key)
            if not any(value == each and (type(value) is bool) == (type(each) is bool) for each in allowed):
                raise self.refused(key, value)

    def inert(self, *keys: str) -> None:
        """Keys that cannot change the forward pass in evaluation."""
        for key in keys:
            self._left.pop(key, None)

    def finish(self) -> None:
        """Refuse what nobody took."""
        for key, value in self._left.items():
            raise self.refused(key, value)

    def refused(self, key: str, value: object) -> UnsupportedError:
        """The refusal of a key by name, to be raised."""
        return UnsupportedError(f"{self.where}: {key} = {value!r:.200} is not implemented by the reference subject")

    def _at_least_one(self, key: str, value: int) -> int:
        if value < 1:
            raise SubjectError(f"{self.where}: {key!r} must be at least 1, got {value}")
        return value
