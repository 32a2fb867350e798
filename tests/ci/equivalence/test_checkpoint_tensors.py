"""Tensors on disk by name; equality is bit for bit after dtype normalisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ci.equivalence.checkpoint_tensors import CheckpointTensors, find_largest_difference, have_same_bits
from ci.errors import SubjectError

if TYPE_CHECKING:
    from pathlib import Path


def test_tensors_are_read_by_name_from_whichever_file_holds_them(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    tensors = CheckpointTensors(tmp_path)
    assert list(tensors.files) == ["a", "b"]
    assert "a" in tensors
    assert "c" not in tensors
    assert tensors.read("b").shape == (3,)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(SubjectError, match=r"'a' is both in one\.safetensors and in two\.safetensors"):
        _ = CheckpointTensors(tmp_path).files


def test_no_tensors_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="holds no tensors"):
        _ = CheckpointTensors(tmp_path).files
    (tmp_path / "one.safetensors").write_bytes(b"no header")
    with pytest.raises(SubjectError, match="cannot be read"):
        _ = CheckpointTensors(tmp_path).files


NARROW = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.tensor([1.5]).bfloat16(), torch.tensor([1.5]), True),
        (torch.tensor([1.5]).half(), torch.tensor([1.5]).double(), True),
        (torch.tensor([math.nan]), torch.tensor([math.nan]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]), False),
        (torch.tensor([1.0]), torch.tensor([[1.0]]), False),
        *((torch.tensor([0.0, math.nan], dtype=d), torch.tensor([0.0, math.nan], dtype=d), True) for d in NARROW),
        *((torch.tensor([0.0], dtype=d), torch.tensor([-0.0], dtype=d), False) for d in NARROW),
        *((torch.tensor([1.0], dtype=d), torch.tensor([1.0078125], dtype=d), False) for d in NARROW),
        *((torch.ones(3, 2, dtype=d).t(), torch.ones(2, 3, dtype=d), True) for d in NARROW),
        (torch.tensor([3]), torch.tensor([3]), True),
    ],
)
def test_bits_are_compared_in_the_wider_dtype(one: torch.Tensor, other: torch.Tensor, same: bool) -> None:
    assert have_same_bits(one, other) is same


def test_the_largest_difference_of_nothing_is_zero() -> None:
    assert find_largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])) == 3.0
    assert find_largest_difference(torch.zeros(0), torch.zeros(0)) == 0.0
