from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.subjects.open_subject import open_subject
from tests.ci.subjects.impostor import DESCRIPTION, SINGLE_CALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@pytest.fixture
def impostor(tmp_path: Path) -> Callable[..., Any]:
    """`impostor(code)` → open_subject of a worker whose interpreter runs `code` instead of ours."""

    def opened(code: str, **rest: Any) -> Any:
        script = tmp_path / "interpreter"
        script.write_text(f"#!{sys.executable}\n{SINGLE_CALL}DESCRIPTION = {DESCRIPTION!r}\n{textwrap.dedent(code)}")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return open_subject("reference", python=script, **{"timeout": 30.0, **rest})

    return opened
