"""Each statistic measures its own mistake, and rounding alone leaves it small."""

from __future__ import annotations

import pytest
import torch

from ci.equivalence.precision_statistics import (
    GAIN,
    GAIN_BIAS,
    MISROUNDED,
    Estimate,
    average,
    measure_angle,
    measure_channel_gain,
    measure_rounding,
    measure_scale_bias,
)
from tests.ci.equivalence.precision import KEEP, B, T, draw

EXACT = draw(B, T, 64, dtype=torch.float64)
POSITIONS = torch.arange(T).expand(B, T)


def test_one_rounding_leaves_no_value_misrounded() -> None:
    measured = dict(measure_rounding(EXACT.bfloat16(), EXACT, KEEP))
    assert measured[MISROUNDED] == Estimate(0.0, 0.0)
    assert measured[GAIN].value < 2**-11
    assert measured[GAIN_BIAS].size < 4 * measured[GAIN_BIAS].error


def test_a_factor_of_each_token_is_a_gain_without_a_bias() -> None:
    factor = 1 + 1e-2 * draw(B, T, 1, seed=1)
    measured = dict(measure_rounding((EXACT * factor).bfloat16(), EXACT, KEEP))
    assert measured[GAIN].value == pytest.approx(1e-2, rel=0.2)
    assert measured[GAIN_BIAS].size < 4 * measured[GAIN_BIAS].error
    assert measured[MISROUNDED].value > 0.5


def test_one_factor_is_a_bias() -> None:
    measured = dict(measure_rounding((EXACT * 0.99).bfloat16(), EXACT, KEEP))
    assert measured[GAIN_BIAS].value == pytest.approx(-1e-2, rel=0.05)


def test_padding_is_not_measured() -> None:
    keep = KEEP.clone()
    keep[0, :5] = False
    wrong = EXACT.bfloat16()
    wrong[0, :5] = 7
    assert dict(measure_rounding(wrong, EXACT, keep))[MISROUNDED].value == 0


def test_a_wrong_weight_is_a_gain_of_its_channel() -> None:
    wrong = EXACT.clone()
    wrong[..., 5] *= 1.1
    assert measure_channel_gain(wrong, EXACT, KEEP).value == pytest.approx(0.1 / 8, rel=1e-6)


def test_the_scale_bias_is_the_relative_error_of_the_scale() -> None:
    slope = draw(B, T, 64, seed=2)
    bias = measure_scale_bias((EXACT + 3e-3 * slope).float(), EXACT, slope, KEEP)
    assert bias.value == pytest.approx(3e-3, rel=1e-3)


def test_an_angle_that_all_heads_share_is_seen_below_the_rounding_of_one() -> None:
    expected = draw(B, T, 8, 16, seed=3, dtype=torch.float64)
    first, second = expected.chunk(2, -1)
    angle = torch.tensor(4e-3, dtype=torch.float64)
    cos, sin = angle.cos(), angle.sin()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    assert measure_angle(turned, expected, POSITIONS, KEEP).value == pytest.approx(4e-3, rel=1e-3)
    rounded = measure_angle(expected.bfloat16(), expected, POSITIONS, KEEP)
    assert rounded.value < 5e-4


def test_the_standard_error_is_that_of_a_mean() -> None:
    samples = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert Estimate.of_mean(samples).error == pytest.approx(1.2909944 / 2)
    assert average([Estimate(1.0, 0.3), Estimate(3.0, 0.4)]) == Estimate(2.0, 0.25)
    assert Estimate.of_root_mean(samples).value == pytest.approx(2.5**0.5)
