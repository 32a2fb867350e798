"""Select the small files of a repository that belong in a checkpoint, by a list of names."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ci.companion_files import (
    GENERATION_CONFIG,
    OTHER_TOKENIZER_FILES,
    PROCESSOR_FILES,
    TEMPLATE_FILES,
    TOKENIZER,
    TOKENIZER_CONFIG,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONFIG = "config.json"
MAX_SMALL_FILE = 100 * 1024**2


ALWAYS = frozenset({GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, *PROCESSOR_FILES, *TEMPLATE_FILES})


def select_small_files(names: Iterable[str]) -> list[str]:
    """Select the files to copy beside config.json and the tensors, but for other formats of a tokenizer."""
    return [name for name in sorted(names) if name in ALWAYS]


def select_other_formats(names: Iterable[str], read_tokenizer_config: Callable[[], bytes]) -> list[str]:
    """Select the other files of a tokenizer.

    Where `tokenizer.json` holds the whole tokenizer there are none: each file is a request to the Hub, and its rate
    limit counts them. The tokenizer's config is read only where that depends on it.
    """
    listed = sorted(names)
    others = [name for name in listed if any(fnmatchcase(name, pattern) for pattern in OTHER_TOKENIZER_FILES)]
    if others and {TOKENIZER, TOKENIZER_CONFIG}.issubset(listed) and _names_special_tokens(read_tokenizer_config()):
        return []
    return others


def _names_special_tokens(tokenizer_config: bytes) -> bool:
    """Return whether the tokenizer's config lists its special tokens.

    If it does, transformers reads no other file for them.
    """
    try:
        config = json.loads(tokenizer_config)
    except ValueError:
        return False
    return isinstance(config, dict) and "added_tokens_decoder" in config
