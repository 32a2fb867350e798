"""Gaps of log-probabilities, their distribution, and the figures that other projects name."""

from __future__ import annotations

import math

import pytest
import torch

from ci.consumers.score_files import Scores
from ci.equivalence.served_scores import (
    bound_divergence,
    estimate_policy_divergence,
    find_first_beyond,
    mean_multiplicative_error,
    measure_gap,
    split_mismatch,
)

KEEP = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]).bool()
EXPECTED = torch.tensor([[math.nan, -1.0, -2.0, -3.0], [math.nan, math.nan, math.nan, -4.0]])


def test_a_gap_is_of_the_scored_tokens_alone() -> None:
    gap = measure_gap(EXPECTED + torch.tensor([0.0, 0.3, 0.0, -0.4]), EXPECTED, KEEP)
    assert gap.tokens == 4
    assert gap.rms == pytest.approx(math.sqrt((0.09 + 0.16 + 0.16) / 4), rel=1e-5)
    assert gap.largest == pytest.approx(0.4, rel=1e-5)
    assert gap.worst == (0, 3)
    assert gap.quantiles() == pytest.approx((0.4, 0.4, 0.4), rel=1e-5)
    assert gap.largest_by_position() == pytest.approx((0, 0.3, 0, 0.4), rel=1e-5)


@pytest.mark.parametrize(("value", "rms"), [(-math.inf, math.inf), (math.nan, math.inf)])
def test_a_token_that_one_side_alone_finds_impossible_is_an_infinite_gap(value: float, rms: float) -> None:
    actual = EXPECTED.clone()
    actual[0, 2] = value
    gap = measure_gap(actual, EXPECTED, KEEP)
    assert (gap.rms, gap.largest, gap.infinite) == (rms, rms, 1)
    assert mean_multiplicative_error(gap) == estimate_policy_divergence(gap) == math.inf


def test_a_token_that_both_find_impossible_is_equal() -> None:
    both = EXPECTED.clone()
    both[0, 2] = -math.inf
    gap = measure_gap(both, both, KEEP)
    assert (gap.rms, gap.infinite, gap.tokens) == (0, 0, 3)


def test_the_first_position_beyond_a_limit_is_counted_without_padding() -> None:
    gap = measure_gap(EXPECTED + torch.tensor([0.0, 0.1, 0.0, -0.4]), EXPECTED, KEEP)
    assert find_first_beyond(gap, KEEP, 0.2) == 1, "the second row's second token is at column 3"
    assert find_first_beyond(gap, KEEP[:1].expand(2, -1), 0.2) == 3
    assert find_first_beyond(gap, KEEP, 0.5) is None


def test_the_figures_of_other_projects() -> None:
    gap = measure_gap(EXPECTED + 0.1, EXPECTED, KEEP)
    assert mean_multiplicative_error(gap) == pytest.approx(math.exp(0.1), rel=1e-5)
    assert estimate_policy_divergence(gap) == pytest.approx(math.exp(0.1) - 1.1, rel=1e-4)
    assert mean_multiplicative_error(measure_gap(EXPECTED, EXPECTED, KEEP)) == 1


def make_scores(probabilities: list[list[float]], ids: list[list[int]]) -> Scores:
    """Scores of one row whose second and third tokens have these most likely tokens."""
    top = torch.tensor([[[0.0] * len(probabilities[0]), *probabilities]]).log()
    return Scores(torch.zeros(1, 3), torch.tensor([[[-1] * len(ids[0]), *ids]]), top)


def test_the_divergence_of_listed_tokens_is_a_lower_bound() -> None:
    keep = torch.ones(1, 3, dtype=torch.bool)
    one = make_scores([[0.5, 0.3], [0.6, 0.2]], [[4, 7], [1, 2]])
    other = make_scores([[0.4, 0.4], [0.6, 0.2]], [[7, 4], [1, 9]])
    assert bound_divergence(one, one, keep) == pytest.approx(0, abs=1e-9)
    first = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.4) + 0.2 * math.log(0.2 / 0.2)
    assert bound_divergence(other, one, keep) == pytest.approx(first / 2, rel=1e-4)


@pytest.mark.parametrize(("own", "engine", "share"), [(0.0, 0.2, 1.0), (0.2, 0.0, 0.0), (0.1, 0.1, 0.5)])
def test_a_mismatch_is_split_at_hugging_face(own: float, engine: float, share: float) -> None:
    split = split_mismatch(EXPECTED + own, EXPECTED, EXPECTED - engine, KEEP)
    assert (split.trainer, split.engine) == pytest.approx((own, engine), abs=1e-6)
    assert split.engine_share == pytest.approx(share, rel=1e-5)
