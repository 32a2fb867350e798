"""Attention: what a query sees, by hand; the implementations against a loop over every query."""

from __future__ import annotations

import math

import pytest
import torch

from ci.subjects.reference import attention
from ci.subjects.reference.attention import ATTENTION, AttentionMask, ImplementationLog


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visibility: AttentionMask) -> torch.Tensor:
    """Query by query, head by head."""
    batch, length, heads, size = query.shape
    answer = torch.zeros(batch, length, heads, size, dtype=query.dtype)
    for row in range(batch):
        for at in range(length):
            first = 0 if visibility.window is None else max(0, at - visibility.window + 1)
            seen = [
                other
                for other in range(first, at + 1)
                if visibility.documents is None or visibility.documents[row, other] == visibility.documents[row, at]
            ]
            for head in range(heads):
                group = head * key.shape[2] // heads
                scores = key[row, seen, group] @ query[row, at, head] / math.sqrt(size)
                answer[row, at, head] = scores.softmax(0) @ value[row, seen, group]
    return answer.flatten(2)


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("window", [None, 1, 5, 13, 500])
@pytest.mark.parametrize("packed", [False, True])
def test_each_implementation_is_attention(
    name: str, window: int | None, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CHUNK", 4)
    generator, length = torch.Generator().manual_seed(3), 22
    query, key, value = (torch.randn(2, length, h, 8, generator=generator, dtype=torch.float64) for h in (6, 2, 2))
    documents = (torch.arange(length)[None] >= torch.tensor([[11], [0]])).long() if packed else None
    visibility, ran = AttentionMask(documents, window), ImplementationLog()
    answer = ATTENTION[name](query, key, value, visibility, ran)
    torch.testing.assert_close(answer, by_hand(query, key, value, visibility), rtol=1e-10, atol=1e-12)
    assert ran == {"attention": name}


def test_the_window_counts_the_query_itself() -> None:
    mask = AttentionMask(window=2).to_matrix(range(4), range(4), torch.device("cpu"))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_two_implementations_on_one_axis_show() -> None:
    ran = ImplementationLog()
    for name in ("eager", "sdpa", "eager"):
        ran.add("attention", name)
    assert ran == {"attention": "eager+sdpa"}
