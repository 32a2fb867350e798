from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.subjects.open_subject import open_subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.base import Subject

PYTHON = os.environ.get("HUB_TESTS_FAST_LLM_PYTHON")
PATH = os.environ.get("HUB_TESTS_FAST_LLM_PATH", "")
SECONDS = 600.0
NOT_HERE = "needs Fast-LLM: set HUB_TESTS_FAST_LLM_PYTHON to its interpreter, HUB_TESTS_FAST_LLM_PATH to its tree"


@pytest.fixture(scope="package")
def fast_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """The real Fast-LLM in a worker; skips where the environment does not say where it is."""
    if not PYTHON:
        pytest.skip(NOT_HERE)
    path = tuple(Path(entry) for entry in PATH.split(os.pathsep) if entry)
    log = tmp_path_factory.mktemp("fast_llm") / "worker.log"
    with open_subject("fast_llm", python=Path(PYTHON), path=path, timeout=SECONDS, log=log) as subject:
        yield subject
