"""The files beside the weights and config.json of a Hugging Face directory: names and reading. Standard library only.

https://huggingface.co/docs/transformers/main_classes/tokenizer and …/processors say which library class reads each.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
NAMED_TEMPLATES = "additional_chat_templates"
"""The folder with a chat template for each further purpose, `tool_use.jinja`: transformers' CHAT_TEMPLATE_DIR."""
MAX_NAMED_TEMPLATES = 15
"""Files of that folder that are fetched and compared; published repositories have one to three."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What a multimodal model's processor reads."""
COMPANION_FILES = (
    GENERATION_CONFIG,
    *TOKENIZER_FILES,
    *TEMPLATE_FILES,
    f"{NAMED_TEMPLATES}/*.jinja",
    *PROCESSOR_FILES,
)


def list_files(directory: Path, patterns: Iterable[str]) -> tuple[str, ...]:
    """List, in order, the paths below `directory` of the files that match one of the patterns."""
    found = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return tuple(sorted(path.relative_to(directory).as_posix() for path in found))


def copy_companions(source: Path, target: Path) -> None:
    """Copy every companion file that `source` has to the directory `target`."""
    for name in list_files(source, COMPANION_FILES):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)


MAX_OBJECT_BYTES = 128 * 2**20
"""The largest file that is parsed; a published tokenizer.json has up to 40 MB."""
MAX_DEPTH = 64
PIECE_BYTES = 2**20


@dataclass(frozen=True)
class CompanionDirectory:
    """A Hugging Face directory whose files are read with care: a subject may have written them.

    Only regular files count. A link, a pipe or a device is as good as missing, unless `links` allows links.
    """

    path: Path
    links: bool = False

    def has(self, name: str) -> bool:
        """Return whether there is a regular file of that name."""
        if not self._is_reached(name):
            return False
        try:
            status = (self.path / name).stat(follow_symlinks=self.links)
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode)

    def _is_reached(self, name: str) -> bool:
        """Return whether no link leads to the folder of a name."""
        return self.links or "/" not in name or not (self.path / name).parent.is_symlink()

    def list_names(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """List, in order, the regular files that match one of the patterns."""
        return tuple(name for name in list_files(self.path, patterns) if self.has(name))

    def open(self, name: str) -> IO[bytes]:
        """Open a regular file. Raises OSError where there is none."""
        if not self._is_reached(name):
            raise OSError(f"{name} is behind a link")
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if self.links else os.O_NOFOLLOW)
        descriptor = os.open(self.path / name, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"{name} is no regular file")
        return os.fdopen(descriptor, "rb")

    def read_bytes(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """Return a file's bytes. Raises OSError where it is missing or longer than `limit`."""
        with self.open(name) as file:
            long = os.fstat(file.fileno()).st_size > limit
            content = b"" if long else file.read(limit + 1)
        if long or len(content) > limit:
            raise OSError(f"{name} is longer than {limit} bytes")
        return content

    def read_object(self, name: str) -> Mapping[str, Any]:
        """Return the JSON object in a file.

        It is empty where the file is missing, too long, too deep, or no object.
        """
        try:
            return self.parse_object(name)
        except (OSError, ValueError):
            return {}

    def explain_unread(self, name: str) -> str:
        """Say why a file holds no JSON object; "" where it does, or is missing."""
        if not os.path.lexists(self.path / name):
            return ""
        if not self.has(name):
            return "a link, a directory or a special file, not a regular one"
        try:
            self.parse_object(name)
        except OSError as problem:
            return str(problem)
        except ValueError as problem:
            return f"not a JSON object in UTF-8: {problem}"[:200]
        return ""

    def parse_object(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file.

        Raises OSError where it cannot be read, ValueError where it is none.
        """
        try:
            content = json.loads(self.read_bytes(name).decode("utf-8"))
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        _check_depth(content)
        return content


def _check_depth(content: Any) -> None:
    """Raise ValueError for values that are nested deeper than any configuration's."""
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def find_first_difference(one: IO[bytes], other: IO[bytes]) -> int | None:
    """Return the offset of the first byte that differs between two files, or None."""
    offset = 0
    while True:
        first, second = one.read(PIECE_BYTES), other.read(PIECE_BYTES)
        if first != second:
            pairs = zip(first, second, strict=False)
            return offset + next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
        if not first:
            return None
        offset += len(first)
