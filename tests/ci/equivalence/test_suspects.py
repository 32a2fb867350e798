"""The shape of a tensor's error names what is wrong."""

from __future__ import annotations

import pytest

from ci.equivalence.error_signature import ErrorSignature
from ci.equivalence.suspects import describe_suspect, join_numbers


@pytest.mark.parametrize(
    ("tensor", "signature", "words"),
    [
        ("decoder.0.norm_1", ErrorSignature(token_scale=True), "the norm's epsilon"),
        ("decoder.0.mixer.key", ErrorSignature(first_wrong=1), "RoPE"),
        ("decoder.0.mixer.value", ErrorSignature(offset=True), "the projection's bias"),
        ("decoder.0.mixer.context", ErrorSignature(padded_only=True), "the padding mask"),
        ("decoder.0.mixer.context", ErrorSignature(later_documents=True), "the document mask"),
        ("decoder.0.mlp.router_logits", ErrorSignature(channels=(3,)), "only expert 3"),
        ("decoder.0.mlp.router_scores", ErrorSignature(), "softmax before or after the choice"),
        ("embeddings", ErrorSignature(scale=2.0), "the embedding's scale"),
        ("logits", ErrorSignature(channels=(1, 2)), "vocabulary columns 1, 2"),
        ("decoder.0", ErrorSignature(), "no simple relation"),
        ("decoder.0.norm_2", ErrorSignature(same_as="decoder.0.norm_1"), "it equals the reference's decoder.0.norm_1"),
    ],
)
def test_the_signature_names_a_suspect(tensor: str, signature: ErrorSignature, words: str) -> None:
    assert words in describe_suspect(tensor, signature)


def test_what_only_low_precision_shows_is_a_cast_whatever_it_looks_like() -> None:
    said = describe_suspect("decoder.0.norm_1", ErrorSignature(scale=2.0), only_low_precision="bfloat16")
    assert said.startswith("wrong in bfloat16 only")


def test_many_numbers_are_counted() -> None:
    assert (join_numbers([1, 2]), join_numbers(range(8))) == ("1, 2", "0, 1, 2, 3, 4, 5, … (8)")
