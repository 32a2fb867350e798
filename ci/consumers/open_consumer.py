"""Opens a consumer by name, in a worker; finds the interpreter that has it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ci.consumers.registry import find_consumer
from ci.consumers.worker_consumer import CONSUMER_MAIN, EngineWorker, WorkerConsumer
from ci.environments.base import find_base, find_base_of, use_base
from ci.environments.description import load_description
from ci.errors import NotOfferedError
from ci.phases import PhaseClock
from ci.subjects.sandbox import NO_SANDBOX
from ci.subjects.worker_launch import WorkerLaunch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.subjects.sandbox import Isolation


def find_interpreter(name: str, roots: Sequence[Path], python: Path | None = None) -> tuple[Path, dict[str, str]]:
    """Return the interpreter that has a consumer, and the variables of its environment.

    `python` wins; else it is that of the environment called after the consumer, below one of `roots`. Raises
    NotOfferedError, which says what to do, where there is none: a consumer is optional.
    """
    offer = find_consumer(name)
    if offer.environment is None:
        return python or Path(sys.executable), {}
    description = load_description(offer.environment)
    variables = dict(description.environment)
    if python is not None:
        if not os.access(python, os.X_OK):
            raise NotOfferedError(f"consumer {name}: {python} is not an executable file; name its interpreter")
        return python, variables
    for root in roots:
        if (base := find_base(root, description)) is not None:
            return base.python, variables
    raise NotOfferedError(
        f"consumer {name}: its environment is not built: run hub-tests env build {offer.environment}, "
        "or name an interpreter that has it with --consumer-python"
    )


@contextmanager
def open_consumer(
    name: str,
    *,
    python: Path,
    timeout: float,
    log: Path | None = None,
    isolation: Isolation | None = None,
    readable: tuple[Path, ...] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
    clock: PhaseClock | None = None,
) -> Iterator[WorkerConsumer]:
    """Open a consumer for the length of the context, in a worker of the interpreter `python`.

    Isolation, log, time and size are limited as a subject's: the files that it loads were written by one.
    """
    find_consumer(name)
    launch = WorkerLaunch(
        name, python, (), os.environ, log, isolation or NO_SANDBOX, readable, variables, main=CONSUMER_MAIN
    )
    base = find_base_of(python)
    with use_base(base) if base else nullcontext(), EngineWorker(launch, timeout, clock or PhaseClock()) as worker:
        yield WorkerConsumer(worker)
