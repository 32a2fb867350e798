"""Rotary embeddings against their definitions: complex rotation, relative positions, the ends of each scaling."""

from __future__ import annotations

import math

import pytest
import torch

from ci.subjects.reference.config import DefaultRope, Llama3Rope, Rope, YarnRope
from ci.subjects.reference.rope import apply_rotary, compute_frequencies, rotary_tables

LLAMA3 = Llama3Rope(10000.0, 8.0, 1.0, 4.0, 64)
YARN = YarnRope(10000.0, 4.0, 1.2, 32.0, 1.0, 64)


def test_pairs_turn_as_complex_numbers() -> None:
    positions = torch.tensor([[0, 1, 5]])
    vectors = torch.randn(1, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    answer = apply_rotary(vectors, *rotary_tables(DefaultRope(100.0), 8, positions, torch.float32))
    angles = positions[0, :, None] * 100.0 ** (-torch.arange(4) / 4)
    expected = torch.complex(vectors[..., :4], vectors[..., 4:])[0] * torch.exp(1j * angles)[:, None]
    assert torch.complex(answer[..., :4], answer[..., 4:])[0].allclose(expected, atol=1e-6)
    assert answer[:, 0].equal(vectors[:, 0])


@pytest.mark.parametrize("rope", [DefaultRope(10000.0), LLAMA3, YARN])
def test_scores_depend_on_distance_alone(rope: Rope) -> None:
    vectors = torch.randn(1, 2, 1, 16, generator=torch.Generator().manual_seed(0))
    scores = []
    for start in (0, 50):
        query, key = apply_rotary(vectors, *rotary_tables(rope, 16, torch.tensor([[start, start + 7]]), torch.float32))[
            0, :, 0
        ]
        scores.append(float(query @ key))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_llama3_keeps_fast_divides_slow_and_blends_between() -> None:
    plain, (scaled, factor) = compute_frequencies(DefaultRope(10000.0), 32)[0], compute_frequencies(LLAMA3, 32)
    turns = 64 * plain / (2 * math.pi)
    assert factor == 1.0
    assert scaled[turns > 4].equal(plain[turns > 4])
    assert scaled[turns < 1].allclose(plain[turns < 1] / 8)
    middle = (turns > 1) & (turns < 4)
    assert middle.any()
    assert ((scaled < plain) & (scaled > plain / 8))[middle].all()


def test_yarn_keeps_fast_divides_slow_and_scales() -> None:
    plain, (scaled, factor) = compute_frequencies(DefaultRope(10000.0), 64)[0], compute_frequencies(YARN, 64)
    assert factor == 1.2
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(float(plain[-1]) / 4)
    assert (scaled.diff() < 0).all()
    cos, sin = rotary_tables(YARN, 64, torch.tensor([[0]]), torch.float32)
    assert cos.allclose(torch.tensor(1.2))
    assert not sin.any()


def test_a_ramp_of_no_width_is_a_step() -> None:
    scaled, _ = compute_frequencies(YarnRope(10000.0, 4.0, 1.0, 1.0, 1.0, 2**20), 8)
    assert scaled.isfinite().all()


def test_tables_are_float32_until_the_last_cast() -> None:
    exact, _ = rotary_tables(DefaultRope(10000.0), 16, torch.tensor([[1001]]), torch.float32)
    cast, _ = rotary_tables(DefaultRope(10000.0), 16, torch.tensor([[1001]]), torch.bfloat16)
    assert cast.equal(exact.bfloat16())
