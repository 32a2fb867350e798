"""Keeps Python's garbage collector away from imported libraries: torch and transformers make half a million objects.

Each full collection walks over all of them, at about 0.2 s, and one is needed for each model that is unloaded.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_LIBRARY = "torch"


@contextmanager
def leave_imports_alone() -> Iterator[None]:
    """Import libraries without collections, and exempt what they made from later ones.

    It does so once a process, before torch is there: a model that was exempt could never be freed.
    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    if LARGEST_LIBRARY in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
