"""Opens a subject by name: in this process, or in an interpreter of its own."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.phases import PhaseClock
from ci.subjects.registry import SubjectName, create_subject, find_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.subjects.base import Subject
    from ci.subjects.compile_cache import CompileCache
    from ci.subjects.sandbox import Isolation

TIMEOUT = 1800.0
"""Seconds that one call may take; the first call includes the subject's imports."""


@contextmanager
def open_subject(
    name: SubjectName,
    *,
    python: Path | None = None,
    path: tuple[Path, ...] = (),
    timeout: float = TIMEOUT,
    log: Path | None = None,
    environ: Mapping[str, str] | None = None,
    isolation: Isolation | None = None,
    readable: tuple[Path, ...] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
    compile_cache: CompileCache | None = None,
    clock: PhaseClock | None = None,
) -> Iterator[Subject]:
    """Open a subject, in a worker when `python` is given or others wrote its adapter.

    `path` goes before the worker's own import path (a checkout of the subject, for example). It needs `python`, since
    code under test must not get into this process's path. `log` is the file for what the worker prints. Of `environ`
    (this process's by default) the worker gets a list of allowed variables, without any secret, and all `variables`.
    With an `isolation` that is applied, the worker runs in a sandbox, which sees the `readable` directories too, and a
    copy of the `compile_cache`. `clock` counts the time in which a worker starts and imports its libraries.
    Raises RequestError for an unknown name or an interpreter that is not there.
    """
    if python is None and path:
        raise RequestError("--subject-path needs --subject-python: it is the import path of that interpreter")
    python = python or (Path(sys.executable) if find_adapter(name).plugin else None)
    if python is None:
        yield create_subject(name)
        return
    from ci.subjects.sandbox import NO_SANDBOX
    from ci.subjects.worker_launch import WorkerLaunch
    from ci.subjects.worker_subject import WorkerSubject

    environ = os.environ if environ is None else environ
    launch = WorkerLaunch(name, python, path, environ, log, isolation or NO_SANDBOX, readable, variables, compile_cache)
    with WorkerSubject(launch, timeout, clock or PhaseClock()) as subject:
        yield subject
