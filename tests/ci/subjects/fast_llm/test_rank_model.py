"""The parts of a rank's model that need no Fast-LLM; `test_training.py` runs whole ranks."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ci.subjects.fast_llm.rank_model import is_absent, is_writer


def test_the_first_rank_of_each_stage_writes() -> None:
    def writes(tensor: int, data: int) -> bool:
        distributed = SimpleNamespace(tensor_rank=tensor, data_rank=data)
        return is_writer(SimpleNamespace(config=SimpleNamespace(distributed=distributed)))

    assert [writes(0, 0), writes(1, 0), writes(0, 1)] == [True, False, False]


def test_a_block_of_another_stage_has_no_storage() -> None:
    assert is_absent(torch.nn.Linear(2, 2, device="meta"))
    assert not is_absent(torch.nn.Linear(2, 2))
