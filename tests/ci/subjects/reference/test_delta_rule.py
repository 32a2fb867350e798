"""The delta rule and its parts against transformers' chunks, against torch's convolution, and over packed documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, softplus
from transformers.models.kimi_linear.modeling_kimi_linear import chunk_kimi_delta_attention
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextRMSNormGated,
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from ci.subjects.hugging_face.float64_mode import Float64Mode
from ci.subjects.reference.delta_rule import (
    compute_decay,
    convolve_causally,
    find_document_starts,
    normalize_gated,
    run_delta_rule,
    shift_tokens,
    widen,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

BATCH, LENGTH, HEADS, KEY_DIM, VALUE_DIM = 2, 75, 3, 8, 12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def operands(*, by_channel: bool, length: int = LENGTH) -> Operands:
    """Query, key, value, logarithm of the decay and beta."""
    decay = draw(BATCH, length, HEADS, *((KEY_DIM,) if by_channel else ()), seed=4)
    return (
        draw(BATCH, length, HEADS, KEY_DIM, seed=1),
        draw(BATCH, length, HEADS, KEY_DIM, seed=2),
        draw(BATCH, length, HEADS, VALUE_DIM, seed=3),
        -softplus(decay - 2),
        draw(BATCH, length, HEADS, seed=5).sigmoid(),
    )


def run_alone(given: Iterable[Tensor]) -> Tensor:
    """The recurrence over rows of one document each."""
    query, key, value, decay, beta = given
    return run_delta_rule(query, key, value, decay, beta, None)


def run_theirs(function: Any, query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    with Float64Mode():
        settings = {"initial_state": None, "output_final_state": False, "use_qk_l2norm_in_kernel": True}
        out: Tensor = function(query, key, value, g=decay, beta=beta, **settings)[0]
    return out


@pytest.mark.parametrize("function", [torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule])
def test_one_decay_a_head_equals_qwen3_next(function: Any) -> None:
    given = operands(by_channel=False)
    torch.testing.assert_close(run_delta_rule(*given, None), run_theirs(function, *given), rtol=1e-11, atol=1e-12)


def test_a_decay_of_each_channel_equals_kimi_linear() -> None:
    given = operands(by_channel=True)
    theirs = run_theirs(chunk_kimi_delta_attention, *given[:2], draw(BATCH, LENGTH, HEADS, KEY_DIM, seed=3), *given[3:])
    ours = run_delta_rule(*given[:2], draw(BATCH, LENGTH, HEADS, KEY_DIM, seed=3), *given[3:], None)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("by_channel", [False, True])
def test_a_document_begins_without_a_state(by_channel: bool) -> None:
    given = operands(by_channel=by_channel, length=20)
    documents = torch.tensor([[0] * 7 + [1] * 13, [1] * 20])
    packed = run_delta_rule(*given, documents)
    torch.testing.assert_close(packed[:1, 7:], run_alone(tensor[:1, 7:] for tensor in given))
    torch.testing.assert_close(packed[1:], run_alone(tensor[1:] for tensor in given))


def test_a_state_of_padding_cannot_spread() -> None:
    given = operands(by_channel=False, length=6)
    given[2][0, 0] = torch.nan
    assert run_delta_rule(*given, torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]))[0, 2:].isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_convolution_sees_the_past_alone(width: int) -> None:
    tensor, weight, bias = draw(2, 9, 5), draw(5, 1, width, seed=1), draw(5, seed=2)
    expected = conv1d(pad(tensor.mT, (width - 1, 0)), weight, bias, groups=5).mT
    torch.testing.assert_close(convolve_causally(tensor, weight, None, bias), expected)


def test_the_convolution_stays_in_its_document() -> None:
    tensor, weight = draw(1, 9, 5), draw(5, 1, 4, seed=1)
    packed = convolve_causally(tensor, weight, torch.tensor([[0] * 4 + [1] * 5]))
    alone = [convolve_causally(part, weight, None) for part in tensor.split_with_sizes([4, 5], dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1))


def test_tokens_are_shifted_within_their_document() -> None:
    tensor = torch.arange(1.0, 6.0)[None, :, None]
    assert shift_tokens(tensor, None, 2)[0, :, 0].tolist() == [0, 0, 1, 2, 3]
    assert shift_tokens(tensor, torch.tensor([[0, 0, 1, 1, 1]]), 1)[0, :, 0].tolist() == [0, 1, 0, 3, 4]


def test_a_document_starts_where_its_number_changes() -> None:
    like = torch.zeros(1, 4, 2)
    assert find_document_starts(None, like).tolist() == [[True, False, False, False]]
    assert find_document_starts(torch.tensor([[0, 0, 1, 1]]), like).tolist() == [[True, False, True, False]]


def test_the_decay_is_below_one() -> None:
    tensor, a_log, bias = draw(2, 3, 4), draw(4, seed=1), draw(4, seed=2)
    expected = -a_log.exp() * (1 + (tensor + bias).exp()).log()
    torch.testing.assert_close(compute_decay(tensor, a_log, bias), expected)
    assert (compute_decay(tensor, a_log, bias) < 0).all()


def test_the_gated_norm_equals_qwen3_next() -> None:
    tensor, gate, weight = draw(2, 3, 8), draw(2, 3, 8, seed=1), draw(8, seed=2)
    theirs = Qwen3NextRMSNormGated(8, eps=1e-3).double()
    theirs.weight.data = weight
    with Float64Mode(), torch.no_grad():
        expected = theirs(tensor, gate)
    torch.testing.assert_close(normalize_gated(tensor, gate, weight, 1e-3), expected)
    other = normalize_gated(tensor, gate, weight, 1e-3, "sigmoid")
    torch.testing.assert_close(other * gate, normalize_gated(tensor, gate, weight, 1e-3))


def test_low_precision_is_computed_in_float32() -> None:
    given = [tensor.bfloat16() for tensor in operands(by_channel=False, length=9)]
    exact = run_alone(tensor.float() for tensor in given)
    assert run_alone(given).equal(exact.bfloat16())
    assert widen(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert widen(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
