"""Select the small files of a repository that belong in a checkpoint, by a list of names."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ci.companion_files import (
    GENERATION_CONFIG,
    MAX_NAMED_TEMPLATES,
    NAMED_TEMPLATES,
    OTHER_TOKENIZER_FILES,
    PROCESSOR_FILES,
    TEMPLATE_FILES,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from ci.hub.checkpoint_files import is_safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONFIG = "config.json"
MAX_SMALL_FILE = 100 * 1024**2


ALWAYS = frozenset({GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, *PROCESSOR_FILES, *TEMPLATE_FILES})


def select_small_files(names: Iterable[str]) -> list[str]:
    """Select the files to copy beside config.json and tensors: one format of a tokenizer.

    Of the named chat templates these are the first ones, since each is a request.
    """
    listed = list(names)
    return sorted([*ALWAYS.intersection(listed), *list_named_templates(listed)[:MAX_NAMED_TEMPLATES]])


def list_named_templates(names: Iterable[str]) -> list[str]:
    """List the named chat templates of their folder, in transformers' order."""
    paths = (PurePosixPath(name) for name in names if is_safe_name(name))
    return sorted(str(path) for path in paths if str(path.parent) == NAMED_TEMPLATES and path.suffix == ".jinja")


def describe_left_out(names: Iterable[str]) -> tuple[str, ...]:
    """Say how many named chat templates are not fetched; empty where all are."""
    found = len(list_named_templates(names))
    more = f"{NAMED_TEMPLATES}/ has {found} chat templates, the first {MAX_NAMED_TEMPLATES} are kept"
    return (more,) if found > MAX_NAMED_TEMPLATES else ()


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
