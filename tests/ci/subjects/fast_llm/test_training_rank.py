"""The parts of a rank's work that need no Fast-LLM; `test_training.py` runs whole ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from ci.subjects.fast_llm.training_rank import _Recorder, is_absent, is_writer, name_step_file


def test_the_first_rank_of_each_stage_writes() -> None:
    def writes(tensor: int, data: int) -> bool:
        distributed = SimpleNamespace(tensor_rank=tensor, data_rank=data)
        return is_writer(SimpleNamespace(config=SimpleNamespace(distributed=distributed)))

    assert [writes(0, 0), writes(1, 0), writes(0, 1)] == [True, False, False]


def test_a_block_of_another_stage_has_no_storage() -> None:
    assert is_absent(torch.nn.Linear(2, 2, device="meta"))
    assert not is_absent(torch.nn.Linear(2, 2))


def test_gradients_are_taken_before_the_optimizer_clips_them() -> None:
    order: list[str] = []

    def step(metrics: object) -> int:
        order.append(f"step {metrics}")
        return 1

    optimizer = SimpleNamespace(grad_scale=8, step=step)
    recorder = _Recorder(optimizer, lambda: order.append("recorded"))
    assert recorder.step({"a": 1}) is True
    assert (recorder.grad_scale, order) == (8.0, ["recorded", "step {'a': 1}"])


def test_each_rank_and_step_has_a_file_of_its_own() -> None:
    names = {name_step_file(Path("folder"), step, rank) for step in (1, 2) for rank in (0, 1)}
    assert len(names) == 4
