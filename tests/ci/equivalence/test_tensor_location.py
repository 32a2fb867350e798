"""Locations in plain words, from the names of captured tensors alone."""

from __future__ import annotations

import pytest

from ci.equivalence.tensor_location import PLAIN_WORDS, locate_tensor
from ci.tensor_names import (
    BLOCK_OPERATIONS,
    EMBEDDINGS,
    FINAL_NORM,
    LOGITS,
    is_block_level,
    list_vision_tensors,
)


@pytest.mark.parametrize(
    ("name", "location", "block_level"),
    [
        ("embeddings", "token embeddings", True),
        ("decoder.12", "layer 12, residual after the MLP", True),
        ("decoder.3.mixer.query", "layer 3, query", False),
        ("decoder.0.mlp.something", "layer 0, mlp.something", False),
        ("logits", "output head", True),
        ("vision_encoder.embeddings.patch_embeddings", "patch embedding", True),
        ("vision_encoder.encoder.11", "vision block 11, residual after the MLP", True),
        ("vision_encoder.encoder.2.mixer.query", "vision block 2, query", False),
        ("image_embeddings", "image features among the tokens", True),
    ],
)
def test_a_name_tells_layer_and_operation(name: str, location: str, block_level: bool) -> None:
    assert str(locate_tensor(name)) == location
    assert is_block_level(name) is block_level


def test_every_operation_has_plain_words() -> None:
    before_decoder = {*list_vision_tensors([]), EMBEDDINGS}
    assert PLAIN_WORDS.keys() == {*before_decoder, *BLOCK_OPERATIONS, "", FINAL_NORM, LOGITS}
