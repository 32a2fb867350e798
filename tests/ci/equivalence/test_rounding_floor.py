"""Right orders of roundings make the floor; a finding is beyond floor, margin and error."""

from __future__ import annotations

import pytest
import torch

from ci.equivalence.operation_formulas import NormFormula
from ci.equivalence.precision_statistics import Estimate
from ci.equivalence.rounding_floor import count_deviations, perturb_in_order
from ci.equivalence.tolerances import LENS_LEAST, LENS_LEAST_SHARE, LENS_MARGIN, ROUNDING_SEEDS
from tests.ci.equivalence.precision import EPSILON, HIDDEN, B, T, draw


def test_every_seed_of_every_order_is_another_sample() -> None:
    formula = NormFormula("embeddings", (), draw(HIDDEN, seed=1), EPSILON)
    inputs = (draw(B, T, HIDDEN),)
    samples = list(perturb_in_order(formula, inputs, "bfloat16"))
    assert len(samples) == 2 * ROUNDING_SEEDS
    assert all(sample.dtype == torch.bfloat16 for sample in samples)
    assert len({float(sample.double().sum()) for sample in samples}) == len(samples)
    exact = formula.compute(inputs)
    assert all(float((sample.double() - exact).norm() / exact.norm()) < 2**-8 for sample in samples)


@pytest.mark.parametrize(("share", "least"), [(False, LENS_LEAST["bfloat16"]), (True, LENS_LEAST_SHARE)])
def test_deviations_count_from_the_margin_on(share: bool, least: float) -> None:
    floor = Estimate(0.2, 0.01)
    limit = (1 + LENS_MARGIN) * 0.2 + least
    assert count_deviations(Estimate(limit + 0.03, 0.01), floor, "bfloat16", share=share) == pytest.approx(3)
    assert count_deviations(Estimate(-limit - 0.03, 0.01), floor, "bfloat16", share=share) == pytest.approx(3)
    assert count_deviations(floor, floor, "bfloat16", share=share) < 0


def test_more_precise_is_never_a_finding() -> None:
    assert count_deviations(Estimate(0.0, 0.0), Estimate(0.2, 0.01), "float16", share=True) < 0
