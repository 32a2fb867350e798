from __future__ import annotations

import logging

import pytest

from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.subjects.fast_llm.errors import translate_errors


def test_ours_passes_and_theirs_becomes_ours() -> None:
    with pytest.raises(RequestError, match=r"^exists$"), translate_errors("x"):
        raise RequestError("exists")
    with (
        pytest.raises(UnsupportedError, match="Fast-LLM, import: NotImplementedError: linear"),
        translate_errors("import"),
    ):
        raise NotImplementedError("linear")
    with pytest.raises(SubjectError, match="KeyError: 'attention_factor'"), translate_errors("import"):
        raise KeyError("attention_factor")
    with pytest.raises(RequestError, match="--subject-python"), translate_errors("import"):
        raise ModuleNotFoundError("No module named 'fast_llm'", name="fast_llm")


@pytest.mark.parametrize(
    "problem",
    [
        ImportError("cannot import name 'x' from 'fast_llm.config'", name="fast_llm.config"),
        ModuleNotFoundError("No module named 'fast_llm.confg'", name="fast_llm.confg"),
        ModuleNotFoundError("No module named 'new_dependency'", name="new_dependency"),
    ],
)
def test_what_breaks_while_it_is_imported_is_its_own_fault(problem: ImportError) -> None:
    with pytest.raises(SubjectError, match=f"Fast-LLM, import: {type(problem).__name__}"), translate_errors("import"):
        raise problem


def fail_with_logs() -> None:
    logger = logging.getLogger("fast_llm.checkpoint")
    logger.error("a dump\nof everything")
    logger.error("3 parameters missing")
    raise RuntimeError("Loading failed. See logs for details.")


def fail_with_nested() -> None:
    try:
        raise ValueError("Failed for `decoder`:\n  Failed for `head_size`\n\n==== trace ====\nTypeError")
    except ValueError:
        raise ValueError("Validation failed. See logs above.")  # noqa: B904 (as Fast-LLM does)


def test_a_message_that_points_to_the_logs_brings_them_along() -> None:
    with (
        pytest.raises(SubjectError, match=r"^Fast-LLM, import: RuntimeError: 3 parameters missing$") as error,
        translate_errors("import"),
    ):
        fail_with_logs()
    assert "dump" not in str(error.value)
    assert not logging.getLogger("fast_llm").handlers


def test_a_validation_error_names_its_innermost_field() -> None:
    with (
        pytest.raises(SubjectError, match=r"^Fast-LLM, import: ValueError: Failed for `head_size`$"),
        translate_errors("import"),
    ):
        fail_with_nested()
