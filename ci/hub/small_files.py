"""Select the small files of a repository that belong in a checkpoint, by a list of names."""

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
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a multimodal model's processor reads, and how a chat is written as tokens."""
MAX_SMALL_FILE = 100 * 1024**2


def select_small_files(names: Iterable[str], tokenizer_config: bytes | None, *, allow_remote_code: bool) -> list[str]:
    """Select the files to copy beside config.json and the tensors.

    Where `tokenizer.json` holds the whole tokenizer, its older formats are left out: each file is a request to the Hub,
    and its rate limit counts them. Python files are selected only with `allow_remote_code`.
    """
    listed = sorted(names)
    always = {GENERATION, TOKENIZER, TOKENIZER_CONFIG, *PROCESSOR_FILES}
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
