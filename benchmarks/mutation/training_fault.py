"""Faults of training steps, injected one at a time into the reference: parallelism, optimizer, accumulation, resume.

Each stands for faults that real projects have shipped; where one has a public thread, the comment before it says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

REFERENCE = "ci.subjects.reference"
Check = Literal["steps", "balancing", "resume", "conversion"]
Kind = Literal["parallelism", "training step"]


@dataclass(frozen=True)
class Replacement:
    """A replacement: `place` is "module:name" or "module:Class.name" below the reference; `make` gets the original."""

    place: str
    make: Callable[[Any], Any]

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Put the replacement in place within the `with` block; ranks are forks, so they have it too."""
        module, _, path = self.place.partition(":")
        owner, (*parents, name) = import_module(f"{REFERENCE}.{module}"), path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = vars(owner)[name]
        setattr(owner, name, self.make(original))
        try:
            yield
        finally:
            setattr(owner, name, original)


@dataclass(frozen=True)
class TrainingFault:
    """A fault, the layout and tiny model in which it is one, and the words that name its place in a diagnosis."""

    name: str
    kind: Kind
    layout: str
    model: str
    named: str
    replacements: tuple[Replacement, ...]
    check: Check = "steps"
    thread: str = ""

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Put every replacement in place within the `with` block."""
        with ExitStack() as stack:
            for replacement in self.replacements:
                stack.enter_context(replacement.injected())
            yield


def parallel_fault(
    name: str, layout: str, model: str, named: str, *replacements: Replacement, **rest: Any
) -> TrainingFault:
    """Return a fault of parallelism."""
    return TrainingFault(name, "parallelism", layout, model, named, replacements, **rest)


def step_fault(
    name: str, layout: str, model: str, named: str, *replacements: Replacement, **rest: Any
) -> TrainingFault:
    """Return a fault of a training step."""
    return TrainingFault(name, "training step", layout, model, named, replacements, **rest)


def replace_with(place: str, new: Callable[..., Any]) -> Replacement:
    """Replace a function by another one that does not need the original."""
    return Replacement(place, lambda _: new)
