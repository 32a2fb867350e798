"""A finding names operation, layer, figure and suspect; layers are judged together too."""

from __future__ import annotations

from ci.equivalence.precision_finding import SUSPECTS, Figure, PrecisionFinding, find_kind, pool_layers
from ci.equivalence.precision_statistics import GAIN, GAIN_BIAS, MISROUNDED, Estimate
from ci.tensor_names import KEY, NORM_2


def test_a_finding_in_words() -> None:
    share = PrecisionFinding("decoder.1.norm_2", MISROUNDED, "bfloat16", Estimate(0.39, 0), Estimate(0.26, 0), 9)
    assert str(share) == (
        "precision: norm_2 in layer 1 is right but imprecise: 39.0% of its values are not the nearest bfloat16, "
        "at most 26.0% in right implementations (rounded more than once?)"
    )
    gain = PrecisionFinding("final_norm", GAIN, "float16", Estimate(2e-3, 0), Estimate(-1e-3, 0), 9)
    assert str(gain) == (
        "precision: final_norm is right but imprecise: its gain is off by 0.002, at most 0.001 "
        "in right implementations (statistics in float16?)"
    )


def test_every_statistic_of_every_kind_has_a_suspect() -> None:
    assert {find_kind(operation) for operation in (NORM_2, KEY)} <= {kind for kind, _ in SUSPECTS}


def test_a_bias_of_one_sign_adds_up_over_layers_and_rounding_does_not() -> None:
    floors = [Estimate(sign * 1e-4, 1e-4) for sign in (1, -1, 1, -1)]
    figures = [
        Figure(f"decoder.{n}.mixer.context", GAIN_BIAS, Estimate(6e-4, 1.2e-4), (floor,))
        for n, floor in enumerate(floors)
    ]
    assert all(figure.judge("bfloat16").deviations < 6 for figure in figures)
    (pooled,) = pool_layers(figures, "bfloat16")
    assert pooled.judge("bfloat16").deviations > 6
    assert "with 4 layers together" in str(pooled.judge("bfloat16"))
    assert list(pool_layers(figures[:1], "bfloat16")) == []


def test_the_floor_is_the_least_precise_right_implementation() -> None:
    figure = Figure("final_norm", GAIN, Estimate(1.0, 0.0), (Estimate(1.0, 0.1), Estimate(-3.0, 0.2)))
    assert figure.floor == Estimate(-3.0, 0.2)
    assert figure.judge("bfloat16").deviations < 0
