"""Which of a repository's small files belong into a checkpoint: a list of names, never a pattern for everything."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
OTHER_TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.model.v*",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece*.model",
    "spm.model",
    "*.tiktoken",
    "tekken.json",
)
MAX_SMALL_FILE = 100 * 1024**2


def wanted(names: Iterable[str], tokenizer_config: bytes | None, *, allow_remote_code: bool) -> list[str]:
    """The files to copy beside config.json and the tensors, from the names at the repository's top.

    Where `tokenizer.json` holds the whole tokenizer, the older formats of the same are left out: each file is a request
    to the Hub, and its rate limit counts them. Chat templates are left out for the same reason: no forward pass reads
    one. Python files only where `allow_remote_code` says so.
    """
    listed = sorted(names)
    chosen = {GENERATION, TOKENIZER, TOKENIZER_CONFIG}
    others = () if TOKENIZER in listed and _is_whole(tokenizer_config) else OTHER_TOKENIZER_FILES
    return [
        name
        for name in listed
        if name in chosen
        or any(fnmatchcase(name, pattern) for pattern in others)
        or (allow_remote_code and name.endswith(".py"))
    ]


def _is_whole(tokenizer_config: bytes | None) -> bool:
    """Whether the tokenizer's config names its special tokens, so that transformers reads no other file for them."""
    try:
        config = json.loads(tokenizer_config or b"")
    except ValueError:
        return False
    return isinstance(config, dict) and "added_tokens_decoder" in config
