"""Documents are read without their padding, and inputs that are none are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from ci.errors import RequestError
from ci.layouts import LAYOUTS
from ci.subjects.reference.rank_groups import RankPlace
from ci.subjects.reference.training_rank import choose_documents, find_master_dtype, read_documents
from tests.ci.subjects.reference.training_runs import write_documents

if TYPE_CHECKING:
    from pathlib import Path


def test_documents_have_their_own_length(tmp_path: Path) -> None:
    documents = read_documents(write_documents(tmp_path / "documents"))
    assert [len(document.ids) for document in documents[:2]] == [17, 9]
    assert [int(document.counted.sum()) for document in documents[:2]] == [16, 8]
    chosen = choose_documents(documents, 4, RankPlace(LAYOUTS["dp2_accumulate2"], 1))
    assert [one.ids is documents[index].ids for one, index in zip(chosen, (5, 7), strict=True)] == [True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": torch.tensor([17, 1])},
        {"lengths": torch.tensor([17])},
        {"loss_mask": torch.ones(2, 17, dtype=torch.int64)},
        {"input_ids": None},
    ],
)
def test_inputs_that_are_none_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"input_ids": torch.ones(2, 17, dtype=torch.int64), "lengths": torch.tensor([17, 17]), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "inputs")
    with pytest.raises(RequestError):
        read_documents(tmp_path / "inputs")


def test_masters_are_float32_at_least() -> None:
    assert find_master_dtype(torch.bfloat16) is torch.float32
    assert find_master_dtype(torch.float64) is torch.float64
