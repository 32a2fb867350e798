"""The first wrong tensor of a forward pass in parts is told with its rank and its cause."""

from __future__ import annotations

import pytest
import torch

from ci.equivalence.capture_signature import CapturedGroup, describe_captures, describe_larger_error

GENERATOR = torch.Generator().manual_seed(0)
MIXER = torch.randn(1, 5, 8, generator=GENERATOR)
QUERY = torch.randn(1, 5, 4, 3, generator=GENERATOR)
EXPECTED = {"decoder.0.mixer.query": QUERY, "decoder.0.mixer": MIXER}


def describe(queries: list[torch.Tensor], mixers: list[torch.Tensor]) -> str:
    captured = [{"decoder.0.mixer.query": q, "decoder.0.mixer": m} for q, m in zip(queries, mixers, strict=True)]
    return describe_captures(CapturedGroup((0, 1), captured, EXPECTED))


RIGHT = [QUERY[:, :, :2], QUERY[:, :, 2:]]


def test_right_parts_give_nothing() -> None:
    assert describe(RIGHT, [MIXER, MIXER]) == ""


@pytest.mark.parametrize(
    ("queries", "mixers", "words"),
    [
        (
            RIGHT,
            [0.3 * MIXER, 0.7 * MIXER],
            "layer 0, attention output projection: the all-reduce over tensor ranks 0, 1",
        ),
        (RIGHT, [2 * MIXER, 2 * MIXER], "it has 2 times its size on rank 0"),
        (RIGHT, [MIXER, MIXER + torch.arange(8.0)], "one vector is added at every token on rank 1"),
        (RIGHT, [MIXER, MIXER.roll(1, 1)], "wrong on rank 1"),
        ([RIGHT[0], RIGHT[0]], [MIXER, MIXER], "layer 0, query: rank 1 computes the part of rank 0"),
        ([RIGHT[0], RIGHT[1].roll(1, 1)], [MIXER, MIXER], "layer 0, query: wrong on rank 1"),
        ([RIGHT[0], QUERY[:, :, 1:]], [MIXER, MIXER], "layer 0, query: ranks 0, 1 hold [2, 3] of 4 features"),
    ],
)
def test_the_first_wrong_tensor_is_told(queries: list[torch.Tensor], mixers: list[torch.Tensor], words: str) -> None:
    assert words in describe(queries, mixers)


def test_a_tensor_that_is_off_by_more_than_the_loss_may_be_its_cause() -> None:
    """Too little to be called wrong, and too much to say that only the loss is."""
    group = CapturedGroup((0,), [{"decoder.0.mixer.query": QUERY, "decoder.0.mixer": MIXER * (1 + 7e-5)}], EXPECTED)
    assert describe_captures(group) == ""
    told = "layer 0, attention output projection is off by 7.0e-05, the first that is by more than the loss (3.0e-06)"
    assert describe_larger_error(group, 3e-6) == told
    assert describe_larger_error(group, 1e-2) == ""
