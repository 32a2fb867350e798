"""The shape of an error, planted in tensors whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ci.equivalence.error_signature import ErrorSignature, WrongTensor, compute_signature
from ci.equivalence.suspects import describe_suspect

B, T, HEADS, DIM = 3, 12, 4, 6


def wrong_tensor(actual: torch.Tensor, expected: torch.Tensor, *, padding: int = 0, **rest: Any) -> WrongTensor:
    keep = torch.ones(B, T, dtype=torch.bool)
    keep[0, :padding] = False
    wrong = ((actual - expected).flatten(2).norm(dim=-1) > 1e-9) & keep
    return WrongTensor(actual, expected, wrong, keep, keep.long().cumsum(-1) - 1, **rest)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(B, T, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_exact_at_the_start_of_each_document() -> None:
    right = drawn(HEADS, DIM)
    wrong = torch.where((torch.arange(T) > 0)[None, :, None, None], right.flip(-1), right)
    signature = compute_signature(wrong_tensor(wrong, right))
    assert (signature.first_wrong, signature.reordered) == (1, False)
    assert "RoPE" in describe_suspect("decoder.1.mixer.query", signature)


def test_exact_up_to_the_window() -> None:
    right = drawn(8)
    wrong = right.clone()
    wrong[:, 5:] += 1
    signature = compute_signature(wrong_tensor(wrong, right, window=5))
    assert signature.beyond_window
    assert "sliding window" in describe_suspect("decoder.1.mixer.context", signature)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: 3 * x, {"scale": pytest.approx(3.0), "token_scale": True, "channel_scale": True}),
        (lambda x: x * torch.linspace(1, 2, T, dtype=x.dtype)[None, :, None], {"token_scale": True, "scale": None}),
        (lambda x: x * torch.linspace(1, 2, 8, dtype=x.dtype), {"channel_scale": True, "token_scale": False}),
        (lambda x: x + torch.linspace(1, 2, 8, dtype=x.dtype), {"offset": True, "scale": None}),
        (lambda x: x[..., [1, 0, 3, 2, 5, 4, 7, 6]], {"reordered": True, "offset": False}),
    ],
)
def test_simple_relations(change: Any, expected: dict[str, Any]) -> None:
    right = drawn(8)
    signature = compute_signature(wrong_tensor(change(right), right))
    assert {key: getattr(signature, key) for key in expected} == expected


def test_few_channels_and_heads() -> None:
    right = drawn(HEADS, DIM)
    wrong = right.clone()
    wrong[:, :, 2] *= -1
    assert compute_signature(wrong_tensor(wrong, right)).heads == (2,)
    columns = drawn(50)
    wrong = columns.clone()
    wrong[..., 48:] = 0
    assert compute_signature(wrong_tensor(wrong, columns)).channels == (48, 49)


def test_only_tokens_of_one_expert() -> None:
    right, experts = drawn(8), torch.randint(0, 5, (B, T, 2), generator=torch.Generator().manual_seed(3))
    of_three = (experts == 3).any(-1)
    wrong = torch.where(of_three[..., None], right + 1, right)
    signature = compute_signature(wrong_tensor(wrong, right, experts=experts))
    assert signature.experts == (3,)
    assert "expert 3" in describe_suspect("decoder.0.mlp", signature)


def test_other_experts_on_right_logits_blame_the_top_k() -> None:
    said = describe_suspect("decoder.0.mlp.router_top_experts", ErrorSignature())
    assert said.startswith("other experts on right router logits: how the top k is taken")


def test_only_documents_behind_padding() -> None:
    right = drawn(8)
    wrong = right.clone()
    wrong[0] += 1
    assert compute_signature(wrong_tensor(wrong, right, padding=3)).padded_only


def test_documents_that_see_those_before_them() -> None:
    right = drawn(8)
    wrong = right.clone()
    wrong[1:] += 1
    assert compute_signature(wrong_tensor(wrong, right)).later_documents
    for row, start in ((0, 3), (2, 1)):
        other = right.clone()
        other[row, start:] += 1
        assert not compute_signature(wrong_tensor(other, right)).later_documents


def test_a_tensor_that_equals_another_one_is_named() -> None:
    right, other = drawn(8), drawn(8).flip(0)
    assert (
        compute_signature(wrong_tensor(other, right, siblings={"decoder.0.norm_2": other})).same_as
        == "decoder.0.norm_2"
    )


def test_an_error_without_a_pattern_claims_none() -> None:
    right = drawn(8)
    noise = torch.randn(B, T, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert compute_signature(wrong_tensor(right + noise, right)) == ErrorSignature()


def test_right_in_the_first_row_and_wrong_from_the_first_token_of_later_documents() -> None:
    right = drawn(8)
    wrong = right.clone()
    wrong[1:, :4] += 1
    signature = compute_signature(wrong_tensor(wrong, right))
    assert signature.later_documents
    assert "document boundaries" in describe_suspect("decoder.1.mixer.context", signature)
    assert "document boundaries" in describe_suspect("decoder.1.mixer", signature)
    assert "position numbering" in describe_suspect("decoder.1.mixer.query", signature)


@pytest.mark.parametrize("rows", [(0, 1), (0,), (2,)])
def test_other_faults_are_not_those_of_document_boundaries(rows: tuple[int, ...]) -> None:
    right = drawn(8)
    wrong = right.clone()
    for row in rows:
        wrong[row, 0 if 0 in rows else 1 :] += 1  # the first row too, or not from the first token
    assert not compute_signature(wrong_tensor(wrong, right)).later_documents


@pytest.mark.parametrize(("wrong_text", "found"), [(False, True), (True, False)])
def test_wrong_in_tokens_of_images_only_is_the_vision_tower(wrong_text: bool, found: bool) -> None:
    right, image = drawn(8), torch.zeros(B, T, dtype=torch.bool)
    image[0, 2:5] = True
    wrong = right + image[..., None] * torch.randn(right.shape, generator=torch.Generator().manual_seed(3))
    wrong[1, 0] += int(wrong_text)
    signature = compute_signature(wrong_tensor(wrong, right, image=image))
    assert signature.only_images is found
    assert ("vision tower" in describe_suspect("embeddings", signature)) is found
    assert not compute_signature(wrong_tensor(wrong, right)).only_images


@pytest.mark.parametrize(("right_at", "found"), [((T - 1,), True), ((), False), (tuple(range(4, T)), False)])
def test_right_at_the_last_position_only_is_the_causal_mask(right_at: tuple[int, ...], found: bool) -> None:
    right = drawn(8)
    wrong = right + 1
    wrong[:, list(right_at)] = right[:, list(right_at)]
    signature = compute_signature(wrong_tensor(wrong, right))
    assert signature.only_last_right is found
    if found:
        said = describe_suspect("decoder.1.mixer.context", signature)
        assert said.endswith("causal, Hugging Face looks both ways")
