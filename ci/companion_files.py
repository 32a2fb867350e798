"""Names of the files beside the weights and config.json of a Hugging Face directory. Standard library only.

https://huggingface.co/docs/transformers/main_classes/tokenizer and …/processors say which library class reads each.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GENERATION_CONFIG = "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
OTHER_TOKENIZER_FILES = (
    "*.tiktoken",
    "added_tokens.json",
    "merges.txt",
    "sentencepiece*.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tekken.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "vocab.bpe",
    "vocab.json",
    "vocab.txt",
)
"""Patterns, since some tokenizers name their file after the model."""
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, *OTHER_TOKENIZER_FILES)
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What a multimodal model's processor reads."""
COMPANION_FILES = (GENERATION_CONFIG, *TOKENIZER_FILES, *TEMPLATE_FILES, *PROCESSOR_FILES)


def list_files(directory: Path, patterns: Iterable[str]) -> tuple[str, ...]:
    """List, in order, the names of the files in `directory` that match one of the patterns."""
    return tuple(sorted({path.name for pattern in patterns for path in directory.glob(pattern) if path.is_file()}))


def copy_companions(source: Path, target: Path) -> None:
    """Copy every companion file that `source` has to the directory `target`."""
    for name in list_files(source, COMPANION_FILES):
        shutil.copyfile(source / name, target / name)
