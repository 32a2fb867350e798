"""The Hub stand-in for every room's tests, and the options that name the real Fast-LLM."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.ci.subjects.conftest import NOT_HERE, PATH, PYTHON
from tests.standin.fixtures import hub

__all__ = ["hub"]


settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
"""Hypothesis's limits of time say how busy the machine is, and nothing about the code."""


@pytest.fixture
def fast_llm_words() -> tuple[str, ...]:
    """The options that name the real Fast-LLM; skips the test if the environment does not name it."""
    if not PYTHON:
        pytest.skip(NOT_HERE)
    paths = [f"--subject-path={entry}" for entry in PATH.split(os.pathsep) if entry]
    return ("--subject", "fast_llm", "--subject-python", PYTHON, *paths)
