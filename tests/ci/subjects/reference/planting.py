"""Plants a bug in the reference, and finds the first operation that it makes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from ci.subjects.reference import trace as trace_module
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import operation_of
from tests.ci.subjects.reference.cases import errors, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.reference.model import Model
    from tests.ci.subjects.reference.conftest import ModelFactory

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class PlantedBug:
    """A bug of a model, and the operation in which it begins."""

    case: str
    name: str
    plant: Plant
    operation: str

    def __str__(self) -> str:
        return f"{self.case}: {self.name}"


def in_weights(change: Callable[[Model], Model]) -> Plant:
    """A bug of what was loaded."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        load = trace_module.load_model
        monkeypatch.setattr(trace_module, "load_model", lambda *args: change(load(*args)))

    return plant


def in_function(path: str, change: Callable[[Any], Any]) -> Plant:
    """A bug of a function `module.function`, or of a method `module.Class.method`, of the reference."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        module, *names, last = path.split(".")
        owner: Any = import_module(f"ci.subjects.reference.{module}")
        for name in names:
            owner = getattr(owner, name)
        monkeypatch.setattr(owner, last, change(getattr(owner, last)))

    return plant


def find_first_wrong(factory: ModelFactory, case: str, output: Path, limit: float) -> str:
    """Return the operation of the first tensor, in the order of computation, that is wrong; empty where none is."""
    request = trace_request(factory.converted(case), factory.inputs_of(case), output, capture="all")
    ReferenceSubject().trace(request)
    by_tensor = errors(output, factory.expected(case))
    wrong = (operation_of(name) or name for name, error in by_tensor.items() if not error <= limit)
    return next(wrong, "")
