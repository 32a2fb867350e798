"""Hands Hugging Face's own files to a subject that converts nothing: it reads them when it loads a model."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

from ci.subjects.base import ConvertResult

if TYPE_CHECKING:
    from pathlib import Path


def link_checkpoint(source: Path, target: Path) -> ConvertResult:
    """Put a checkpoint's files at `target` (must not exist), as hard links where the file system can."""
    started = time.perf_counter()
    shutil.copytree(source, target, copy_function=_link_or_copy)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    names = tuple(str(path.relative_to(target)) for path in files)
    return ConvertResult(names, sum(path.stat().st_size for path in files), time.perf_counter() - started)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return target
