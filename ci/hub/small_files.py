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
    from collections.abc import Iterable

CONFIG = "config.json"
MAX_SMALL_FILE = 100 * 1024**2


def select_small_files(names: Iterable[str], tokenizer_config: bytes | None, *, allow_remote_code: bool) -> list[str]:
    """Select the files to copy beside config.json and the tensors.

    Where `tokenizer.json` holds the whole tokenizer, its older formats are left out: each file is a request to the Hub,
    and its rate limit counts them. Python files are selected only with `allow_remote_code`.
    """
    listed = sorted(names)
    always = {GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, *PROCESSOR_FILES, *TEMPLATE_FILES}
    others = () if TOKENIZER in listed and _names_special_tokens(tokenizer_config) else OTHER_TOKENIZER_FILES
    return [
        name
        for name in listed
        if name in always
        or any(fnmatchcase(name, pattern) for pattern in others)
        or (allow_remote_code and name.endswith(".py"))
    ]


def _names_special_tokens(tokenizer_config: bytes | None) -> bool:
    """Return whether the tokenizer's config lists its special tokens.

    If it does, transformers reads no other file for them.
    """
    try:
        config = json.loads(tokenizer_config or b"")
    except ValueError:
        return False
    return isinstance(config, dict) and "added_tokens_decoder" in config
