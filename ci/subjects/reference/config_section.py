"""Reads a configuration strictly: each key is used, known to have no effect, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ci.errors import SubjectError, UnsupportedError

T = TypeVar("T", int, float, bool, str, dict[str, Any], list[Any])
Read = TypeVar("Read")
_REQUIRED: Any = object()


class ConfigSection:
    """One mapping of a configuration; `where` names it in errors. `finish` refuses every key that was not read."""

    def __init__(self, where: str, values: object) -> None:
        if not isinstance(values, Mapping):
            raise SubjectError(f"{where} must be a mapping, got {values!r}"[:300])
        self.where = where
        self._left: dict[str, Any] = dict(values)

    def __bool__(self) -> bool:
        """Return whether any key has not been read."""
        return bool(self._left)

    def take(self, key: str, kind: type[T], default: T = _REQUIRED) -> T:
        """Read the value of `key`, or `default` where it is missing. Raises SubjectError for another type."""
        value = self._left.pop(key, default)
        if value is _REQUIRED:
            raise SubjectError(f"{self.where}: {key!r} is missing")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise SubjectError(f"{self.where}: {key!r} must be {kind.__name__}, got {value!r}"[:300])
        return value

    def peek(self, key: str) -> object:
        """Return the value of `key` and leave it unread; None where it is missing."""
        return self._left.get(key)

    def take_optional(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """Read like `take`, but null is None and not the default."""
        if self._left.get(key, default) is None:
            self._left.pop(key, None)
            return None
        return self.take(key, kind, default if default is not None else _REQUIRED)

    def take_positive(self, key: str, default: int = _REQUIRED) -> int:
        """Read an int of at least 1, as `take` does."""
        return self._check_positive(key, self.take(key, int, default))

    def take_optional_positive(self, key: str, default: int | None = None) -> int | None:
        """Read an int of at least 1 or null, as `take_optional` does."""
        value = self.take_optional(key, int, default)
        return None if value is None else self._check_positive(key, value)

    def take_section(self, key: str) -> ConfigSection:
        """Read a nested mapping, empty where it is missing or null."""
        value = self._left.pop(key, None)
        return ConfigSection(f"{self.where}: {key}", {} if value is None else value)

    def name_child(self, name: str, values: object) -> ConfigSection:
        """Return a section of values that were read from this one by name."""
        return ConfigSection(f"{self.where}: {name}", values)

    def allow(self, key: str, *allowed: object) -> None:
        """Refuse `key` by name unless it is missing or has an allowed value.

        Allowed values have no effect here.
        """
        if key in self._left:
            value = self._left.pop(key)
            if not any(value == each and (type(value) is bool) == (type(each) is bool) for each in allowed):
                raise self.refusal(key, value)

    def ignore(self, *keys: str) -> None:
        """Ignore keys that cannot change the forward pass in evaluation."""
        for key in keys:
            self._left.pop(key, None)

    def finish(self) -> None:
        """Refuse every key that was not read."""
        for key, value in self._left.items():
            raise self.refusal(key, value)

    def refusal(self, key: str, value: object) -> UnsupportedError:
        """Return the error that refuses a key by name."""
        return UnsupportedError(f"{self.where}: {key} = {value!r:.200} is not implemented by the reference subject")

    def finish_known(self, neutral: Mapping[str, Iterable[object]], ignored: Iterable[str]) -> None:
        """Refuse every key left but neutral ones with an allowed value and ignored ones."""
        for key, allowed in neutral.items():
            self.allow(key, *allowed)
        self.ignore(*ignored)
        self.finish()

    def _check_positive(self, key: str, value: int) -> int:
        if value < 1:
            raise SubjectError(f"{self.where}: {key!r} must be at least 1, got {value}")
        return value


def read_blocks(section: ConfigSection, count: int, read: Callable[[ConfigSection], Read]) -> tuple[Read, ...]:
    """Read the blocks of a decoder, and finish its section.

    `fixed` repeats one block, `pattern` a list of named ones, both up to `count`.
    """
    kind = section.take("type", str, "fixed")
    if kind == "fixed":
        blocks, pattern = {"": section.take("block", dict)}, [""]
    elif kind == "pattern":
        blocks, pattern = section.take("blocks", dict), section.take("pattern", list)
    else:
        raise section.refusal("type", kind)
    section.finish()
    if not pattern or not {*pattern} <= {*blocks}:
        raise section.refusal("pattern", pattern)
    read_once = {name: read(section.name_child(f"block {name}".rstrip(), each)) for name, each in blocks.items()}
    return tuple(read_once[pattern[i % len(pattern)]] for i in range(count))
