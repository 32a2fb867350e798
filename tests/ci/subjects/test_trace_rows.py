"""Rows written straight to their place: the files are those of the batch, and padding holds zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ci.errors import SubjectError
from ci.subjects.trace_files import TraceReader
from ci.subjects.trace_rows import BatchTraceWriter

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

ROWS = {0: 0, 1: 2}
"""Row → padding, of four positions."""


def row_of(row: int, dtype: torch.dtype) -> dict[str, Tensor]:
    tokens = 4 - ROWS[row]
    numbers = torch.arange(1, 1 + tokens * 3).reshape(1, tokens, 3) + 100 * row
    return {"final_norm": numbers.to(dtype), "logits": numbers.flip(-1).to(dtype)}


def written(path: Path, dtype: torch.dtype = torch.float32) -> TraceReader:
    writer = BatchTraceWriter(path, batch=2, length=4)
    for row, padding in ROWS.items():
        one = writer.row_writer(row, padding)
        one.write_scope("embeddings", {"embeddings": torch.full((1, 4 - padding, 2), row + 1)})
        one.write_scope("head", row_of(row, dtype))
        assert one.finish(ran={}, dtype="float32", device="cpu", seconds=0.0).scopes == ("embeddings", "head")
    writer.finish(ran={"batch": "row_by_row"}, dtype="float32", device="cpu", seconds=0.0)
    return TraceReader(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_rows_stand_where_the_batch_has_them(tmp_path: Path, dtype: torch.dtype) -> None:
    logits = written(tmp_path / "trace", dtype).tensor("logits")
    assert logits.dtype == dtype
    assert torch.equal(logits[:1], row_of(0, dtype)["logits"])
    assert torch.equal(logits[1:, 2:], row_of(1, dtype)["logits"])


def test_padding_is_zero(tmp_path: Path) -> None:
    trace = written(tmp_path / "trace")
    assert [trace.tensor(name)[1, :2].any().item() for name in trace] == [False, False, False]


def test_a_stray_tensor_is_refused(tmp_path: Path) -> None:
    writer = BatchTraceWriter(tmp_path / "trace", batch=1, length=2)
    with pytest.raises(SubjectError, match="does not belong"):
        writer.row_writer(0, 0).write_scope("head", {"decoder.0": torch.zeros(1, 2, 3)})
