"""Runs a model by Fast-LLM's schedule of micro-batches, as its trainer does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.layouts import Layout


def make_schedule_config(layout: Layout) -> Any:
    """Return Fast-LLM's schedule for a layout's micro-batches."""
    from fast_llm.engine.schedule.config import ScheduleConfig

    return ScheduleConfig(
        depth_first_micro_batches=layout.micro_batches if layout.order == "depth" else 1,
        breadth_first_micro_batches=layout.micro_batches if layout.order == "breadth" else 1,
        micro_batch_splits=layout.micro_sequences,
    )


@dataclass(frozen=True)
class ScheduledModel:
    """A model with Fast-LLM's runner and schedule for batches of one length; `preprocessing` makes its inputs."""

    model: Any
    preprocessing: Any
    _runner: Any
    _schedule: Any

    @classmethod
    def prepare(cls, model: Any, config: Any, preprocessing: Any, length: int, optimizer: Any = None) -> ScheduledModel:
        """Make a runner for documents of `length` tokens; `optimizer` takes the step where there is one."""
        from fast_llm.engine.schedule.runner import ScheduleRunner
        from fast_llm.engine.schedule.schedule import Schedule

        distributed = model.config.distributed
        runner = ScheduleRunner(config=config, multi_stage=model, distributed_config=distributed)
        runner.setup(model.distributed, optimizer)
        schedule = Schedule(
            config,
            multi_stage=model,
            batch_meta=preprocessing.get_input_meta(length),
            distributed_config=distributed,
            phase=preprocessing.phase,
        )
        return cls(model, preprocessing, runner, schedule)

    def run_step(self, inputs: Sequence[Any]) -> dict[str, float]:
        """Run the micro-batches of one step and return the losses."""
        losses, *_ = self._runner.run_step(iter(inputs), self._schedule, iteration=1)
        return {name: float(loss) for name, loss in losses.items()}

    def run_training_step(self, inputs: Sequence[Any], iteration: int) -> tuple[dict[str, float], float]:
        """Run the micro-batches of one step; return the losses, and the gradients' norm before it is clipped."""
        losses, _, metrics, _ = self._runner.run_step(
            iter(inputs), self._schedule, iteration=iteration, return_metrics=True
        )
        return {name: float(loss) for name, loss in losses.items()}, float(metrics["grad_norm"])
