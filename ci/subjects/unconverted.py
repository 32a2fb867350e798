"""Hands Hugging Face's own files to a subject that converts nothing: it reads them when it loads a model."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from ci.subjects.exchange import link_or_copy
from ci.subjects.written_files import list_written

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import ConvertResult


def link_checkpoint(source: Path, target: Path) -> ConvertResult:
    """Put a checkpoint's files at `target` (must not exist), as hard links where the file system can."""
    started = time.perf_counter()
    shutil.copytree(source, target, copy_function=link_or_copy)
    return list_written(target, started)
