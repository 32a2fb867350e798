"""Plants a bug in the reference, and finds the first operation that it makes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from ci.subjects.reference import trace as trace_module
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import execution_order, operation_of
from tests.ci.subjects.reference.cases import errors, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ci.subjects.reference.model import Model
    from tests.ci.subjects.reference.conftest import ModelFactory

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class PlantedBug:
    """A bug of a model, the operation in which it begins, and the special path that it is in."""

    case: str
    name: str
    plant: Plant
    operation: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.case}: {self.name}"


def of_path(path: str, *bugs: PlantedBug) -> list[PlantedBug]:
    """The bugs of one special path."""
    return [replace(bug, path=path) for bug in bugs]


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


def weights(end: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """A bug in every weight whose name ends so."""

    def plant(right: Model) -> Model:
        wrong = {name: change(tensor) for name, tensor in right.weights.items() if name.endswith(end)}
        assert wrong, end
        return replace(right, weights={**right.weights, **wrong})

    return in_weights(plant)


def exchange(first: str, second: str, *, both: bool = True) -> Plant:
    """One weight in another's place; with `both` that one in the first's too. Parts of names, in every block."""

    def plant(right: Model) -> Model:
        wrong = dict(right.weights)
        for name in right.weights:
            if first in name:
                wrong[name] = right.weights[name.replace(first, second)]
                if both:
                    wrong[name.replace(first, second)] = right.weights[name]
        assert any(wrong[name] is not tensor for name, tensor in right.weights.items())
        return replace(right, weights=wrong)

    return in_weights(plant)


def attention(**changed: Any) -> Plant:
    def plant(right: Model) -> Model:
        blocks = tuple(replace(b, mixer=replace(b.attention, **changed)) for b in right.architecture.blocks)
        return replace(right, architecture=replace(right.architecture, blocks=blocks))

    return in_weights(plant)


def argument(path: str, number: int, change: Callable[[Any], Any]) -> Plant:
    """A function that is given another argument."""

    def wrap(function: Any) -> Any:
        def wrong(*args: Any) -> Any:
            return function(*args[:number], change(args[number]), *args[number + 1 :])

        return wrong

    return in_function(path, wrap)


def result(path: str, change: Callable[[Any], Any]) -> Plant:
    """A function that returns something else."""
    return in_function(path, lambda function: lambda *args: change(function(*args)))


def delay(tensor: Tensor) -> Tensor:
    return tensor.roll(1, dims=1)


def delay_rows(tensor: Tensor) -> Tensor:
    return tensor.roll(1, dims=0)


def find_first_wrong(factory: ModelFactory, case: str, output: Path, limit: float) -> str:
    """Return the operation of the first tensor, in the order of computation, that is wrong; empty where none is."""
    request = trace_request(factory.converted(case), factory.inputs_of(case), output, capture="all")
    ReferenceSubject().trace(request)
    by_tensor = errors(output, factory.expected(case))
    ordered = sorted(by_tensor, key=execution_order)
    wrong = (operation_of(name) or name for name in ordered if not by_tensor[name] <= limit)
    return next(wrong, "")


def find_planted(
    factory: ModelFactory, bug: PlantedBug, output: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> str:
    """Plant a bug, once all that is right was computed, and return the first operation that it makes wrong."""
    factory.expected(bug.case), factory.converted(bug.case)
    bug.plant(monkeypatch)
    return find_first_wrong(factory, bug.case, output, limit)
