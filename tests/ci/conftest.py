"""The Hub stand-in for every room's tests, and the options that name the real Fast-LLM."""

import os

import pytest

from tests.ci.subjects.conftest import NOT_HERE, PATH, PYTHON
from tests.standin.fixtures import hub

__all__ = ["hub"]


@pytest.fixture
def fast_llm_words() -> tuple[str, ...]:
    """The options that name the real Fast-LLM; skips the test if the environment does not name it."""
    if not PYTHON:
        pytest.skip(NOT_HERE)
    paths = [f"--subject-path={entry}" for entry in PATH.split(os.pathsep) if entry]
    return ("--subject", "fast_llm", "--subject-python", PYTHON, *paths)
