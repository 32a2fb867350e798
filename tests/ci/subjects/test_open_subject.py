"""Subjects opened by name, and requests that name none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError
from ci.subjects.open_subject import open_subject
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from pathlib import Path


def test_without_an_interpreter_the_subject_is_in_this_process(tmp_path: Path) -> None:
    with open_subject("reference") as subject:
        assert isinstance(subject, ReferenceSubject)
    with pytest.raises(RequestError, match="--subject-python"), open_subject("reference", path=(tmp_path,)):
        pass


def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    with open_subject("reference", python=tmp_path / "no-python") as subject, pytest.raises(RequestError) as error:
        subject.describe()
    assert "no-python" in str(error.value)


def test_unknown_subjects_are_refused() -> None:
    name: Any = "megatron"
    with pytest.raises(RequestError, match="megatron"), open_subject(name):
        pass
