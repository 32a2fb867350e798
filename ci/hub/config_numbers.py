"""The one reader for numbers of a config.json that anybody may have written. Pure.

A number is a size in memory somewhere: a list is as long as there are layers, a tensor as wide as the vocabulary. So
each one is checked against a limit here before it is used, and a wrong one costs one line of text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_LAYERS = 4096
"""Layers that hub-tests accepts; the deepest published models have some hundred. Sizes in memory depend on it."""
MAX_EXPERTS = 2**16
MAX_SIZE = 2**26
"""Rows of an embedding, or the width of a layer: 67 million. The largest published vocabularies have a million."""
SIZE_NAME = re.compile(
    r"(?:^|_)(?:vocab|hidden|intermediate|embedding|embd|ffn|state|head|kv|proj\w*)_?(?:size|dim)$"
    r"|(?:^|_)(?:heads|experts|groups)$|^(?:n_embd|n_head|n_inner|d_model|d_ff|dim|ffn_dim|vocab_size)$"
)
"""A whole number with such a name becomes the size of a tensor."""


def read_count(values: Mapping[str, Any], key: str, *, what: str, limit: int = MAX_SIZE, least: int = 1) -> int:
    """Return the whole number at `key`, from `least` to `limit`.

    Raises RequestError for a missing value and for anything else: a float, a bool, text, NaN, a list.
    """
    value = values.get(key)
    if type(value) is not int or value < least:
        raise RequestError(f"{what}: {key} is {shorten_value(value)}, expected a whole number from {least}")
    if value > limit:
        raise RequestError(f"{what}: {key} is {shorten_value(value)}, hub-tests accepts at most {limit}")
    return value


def read_optional_count(
    values: Mapping[str, Any], key: str, *, what: str, limit: int = MAX_SIZE, least: int = 0
) -> int | None:
    """Return the whole number at `key`, None where it is missing or null."""
    return None if values.get(key) is None else read_count(values, key, what=what, limit=limit, least=least)


def check_sizes(value: Any, *, what: str) -> None:
    """Check each number of a config that becomes a tensor's size, however nested.

    Raises RequestError that names the first one which no model can have.
    """
    for name, size in _iter_sizes(value):
        if size < 0 and size != -1:
            raise RequestError(f"{what}: {name} is {shorten_value(size)}, a size from 0 was expected")
        if size > MAX_SIZE:
            raise RequestError(f"{what}: {name} is {shorten_value(size)}, hub-tests accepts at most {MAX_SIZE}")


def shorten_value(value: Any) -> str:
    """Format a value in about 50 characters at most, without making a long text first."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)} values"
    return repr(value)[:50]


def _iter_sizes(value: Any) -> Iterator[tuple[str, float]]:
    """Yield name and number of each size below `value`; a list of sizes has the name of the list."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, dict):
            pending += item.items()
        elif isinstance(item, list) and item and (SIZE_NAME.search(name) or isinstance(item[0], dict | list)):
            pending += ((name, element) for element in item)
        elif type(item) in (int, float) and SIZE_NAME.search(name):
            yield name, item
