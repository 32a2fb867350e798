"""Scores and continuations on disk; what an engine wrote wrongly is refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ci.consumers.score_files import (
    CONTINUATION,
    SCORES,
    Continuation,
    Scores,
    find_scored,
    make_empty_continuation,
    make_empty_scores,
    read_continuation,
    read_scores,
)
from ci.subjects.failure import SubjectProtocolError

if TYPE_CHECKING:
    from pathlib import Path

KEEP = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]).bool()


def make_scores() -> Scores:
    scores = make_empty_scores(KEEP.long(), 2)
    scores.logprobs[find_scored(KEEP)] = -1.5
    scores.top_ids[find_scored(KEEP)] = torch.tensor([3, 1])
    scores.top_logprobs[find_scored(KEEP)] = torch.tensor([-0.5, -1.5])
    return scores


def test_the_first_token_of_a_row_and_padding_have_no_score() -> None:
    assert find_scored(KEEP).tolist() == [[False, True, True, True], [False, False, False, True]]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    scores = make_scores()
    scores.write(tmp_path / "scores")
    read = read_scores(tmp_path / "scores", KEEP, 2)
    assert torch.equal(read.top_ids, scores.top_ids)
    assert torch.equal(read.logprobs.nan_to_num(), scores.logprobs.nan_to_num())
    assert read.experts is None
    continuation = make_empty_continuation(2, 5, 2)
    continuation.write(tmp_path / "continuation")
    assert isinstance(read_continuation(tmp_path / "continuation", 2, 5, 2), Continuation)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logprobs": None}, "logprobs is missing"),
        ({"logprobs": torch.zeros(2, 4, dtype=torch.float64)}, "expected torch.float32"),
        ({"top_ids": torch.zeros(2, 4, 3, dtype=torch.int64)}, r"expected torch.int64 \(2, 4, 2\)"),
        ({"top_ids": torch.full((2, 4, 2), -1)}, "a token of the inputs was not scored"),
        ({"experts": torch.zeros(2, 3, 1, 2, dtype=torch.int64)}, "experts have the shape"),
    ],
)
def test_scores_that_do_not_fit_are_refused(changes: dict[str, torch.Tensor | None], said: str, tmp_path: Path) -> None:
    scores = make_scores()
    tensors = {"logprobs": scores.logprobs, "top_ids": scores.top_ids, "top_logprobs": scores.top_logprobs} | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / SCORES)
    with pytest.raises(SubjectProtocolError, match=said):
        read_scores(tmp_path, KEEP, 2)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONTINUATION).write_bytes(b"{}")
    with pytest.raises(SubjectProtocolError, match="cannot be read"):
        read_continuation(tmp_path, 2, 5, 2)
