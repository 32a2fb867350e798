"""The suite's process: pytest, and an end that does not take its libraries apart."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run pytest with this process's arguments, and end with its exit code."""
    import pytest

    end_process(int(pytest.main()))


def end_process(code: int) -> None:
    """Write what is buffered, and end at once: all that has to be undone was undone when pytest's session ended.

    An ordinary end frees each of the half a million objects of torch and transformers, which takes over a second.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
