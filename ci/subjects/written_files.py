"""What a conversion or an export wrote, as its result. Standard library only, as adapters use it too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ci.subjects.base import ConvertResult

if TYPE_CHECKING:
    from pathlib import Path


def list_written(target: Path, started: float) -> ConvertResult:
    """List the files below a directory, with their bytes, and the seconds since `started` of `time.perf_counter`."""
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return ConvertResult(
        files=tuple(str(path.relative_to(target)) for path in files),
        bytes_written=sum(path.stat().st_size for path in files),
        seconds=time.perf_counter() - started,
    )
