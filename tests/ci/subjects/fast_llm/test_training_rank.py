"""The parts of a rank's work that need no Fast-LLM; `test_training.py` runs whole ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from ci.subjects.fast_llm.training_rank import GradientRecorder, name_step_file


def test_gradients_are_taken_before_the_optimizer_clips_them() -> None:
    order: list[str] = []

    def step(metrics: object) -> int:
        order.append(f"step {metrics}")
        return 1

    optimizer = SimpleNamespace(grad_scale=8, step=step)
    recorder = GradientRecorder(optimizer, lambda: order.append("recorded"))
    assert recorder.step({"a": 1}) is True
    assert (recorder.grad_scale, order) == (8.0, ["recorded", "step {'a': 1}"])


def test_each_rank_and_step_has_a_file_of_its_own() -> None:
    names = {name_step_file(Path("folder"), step, rank) for step in (1, 2) for rank in (0, 1)}
    assert len(names) == 4
