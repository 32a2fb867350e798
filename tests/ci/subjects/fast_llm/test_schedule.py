"""How a model is run by a schedule, over a stand-in for Fast-LLM; `test_training.py` runs the real one."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ci.layouts import Layout
from ci.subjects.fast_llm.schedule import ScheduledModel, make_schedule_config


class Runner:
    """Fast-LLM's runner, as far as it is asked: it gives what it was given as a loss."""

    def __init__(self, **_: Any) -> None:
        self.optimizer: Any = "not set up"

    def setup(self, distributed: Any, optimizer: Any) -> None:
        self.optimizer = optimizer

    def run_step(self, data: Any, schedule: Any, *, iteration: int, return_metrics: bool = False) -> Any:
        metrics = {"grad_norm": 2} if return_metrics else None
        return {"loss": sum(data)}, True, metrics, iteration


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    contents: dict[str, dict[str, Any]] = {
        "config": {"ScheduleConfig": lambda **sizes: sizes},
        "runner": {"ScheduleRunner": Runner},
        "schedule": {"Schedule": lambda config, **rest: SimpleNamespace(config=config, **rest)},
    }
    for package in ("fast_llm", "fast_llm.engine", "fast_llm.engine.schedule"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for name, content in contents.items():
        vars(module := ModuleType(name)).update(content)
        monkeypatch.setitem(sys.modules, f"fast_llm.engine.schedule.{name}", module)


def prepare(optimizer: Any = None) -> ScheduledModel:
    """Return a model whose schedule has 7 tokens."""
    model = SimpleNamespace(config=SimpleNamespace(distributed="config"), distributed="groups")
    preprocessing = SimpleNamespace(phase="training", get_input_meta=lambda length: f"{length} tokens")
    return ScheduledModel.prepare(model, {}, preprocessing, 7, optimizer)


def test_micro_batches_run_depth_or_breadth_first() -> None:
    depth, breadth = (
        make_schedule_config(Layout("two", micro_batches=2, order=order)) for order in ("depth", "breadth")
    )
    assert (depth["depth_first_micro_batches"], depth["breadth_first_micro_batches"]) == (2, 1)
    assert (breadth["depth_first_micro_batches"], breadth["breadth_first_micro_batches"]) == (1, 2)


def test_the_schedule_has_the_length_and_the_phase_of_the_inputs() -> None:
    schedule = prepare()._schedule
    assert (schedule.batch_meta, schedule.phase, schedule.distributed_config) == ("7 tokens", "training", "config")


def test_only_a_training_step_asks_for_the_norm() -> None:
    runner = prepare("optimizer")
    assert runner._runner.optimizer == "optimizer"
    assert runner.run_step([1, 2]) == {"loss": 3.0}
    assert runner.run_training_step([1, 2], 4) == ({"loss": 3.0}, 2.0)
