"""From a subject's name to the subject: in this process, or in an interpreter of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

from ci.errors import RequestError
from ci.subjects.base import Subject, SubjectName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TIMEOUT = 1800.0
"""Seconds that one call may take, the first one with the subject's imports."""


@contextmanager
def open_subject(
    name: SubjectName,
    *,
    python: Path | None = None,
    path: tuple[Path, ...] = (),
    timeout: float = TIMEOUT,
    log: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Subject]:
    """The subject `name` for the length of the context: in this process when `python` is None, else in a worker.

    `path` goes before the worker's own import path (a checkout of the subject, say); it has no meaning without
    `python`, since code under test does not belong into this process's path. `log` collects what the worker prints.
    Of `environ` (this process's by default) the worker sees an allow list without any secret.
    Raises RequestError for an unknown name or an interpreter that is not there.
    """
    if python is None:
        if path:
            raise RequestError("--subject-path needs --subject-python: it is the import path of that interpreter")
        yield create(name)
        return
    from ci.subjects.worker import Launch, WorkerSubject

    launch = Launch(name, python, path, os.environ if environ is None else environ, log)
    with WorkerSubject(launch, timeout) as subject:
        yield subject


def create(name: str) -> Subject:
    """The subject `name` in this process; what it stands on is imported when it is first needed."""
    if name == "fast_llm":
        from ci.subjects.fast_llm import FastLLMSubject

        return FastLLMSubject()
    if name == "reference":
        from ci.subjects.reference.subject import ReferenceSubject

        return ReferenceSubject()
    raise RequestError(f"unknown subject {name!r}; choose one of {', '.join(get_args(SubjectName))}")
