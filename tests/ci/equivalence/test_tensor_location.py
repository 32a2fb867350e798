"""Locations and the order of execution, from the names of captured tensors alone."""

from __future__ import annotations

import pytest

from ci.equivalence.tensor_location import BLOCK_OPERATIONS, execution_order, is_block_level, locate_tensor
from ci.subjects import base


def test_the_order_is_that_of_execution() -> None:
    block = [f"decoder.2.{operation}".rstrip(".") for operation in BLOCK_OPERATIONS]
    names = ["embeddings", "decoder.1", *block, "decoder.10", "final_norm", "logits"]
    shuffled = [*names[3:], *names[:3]]
    assert sorted(shuffled, key=execution_order) == names


@pytest.mark.parametrize(
    ("name", "location", "block_level"),
    [
        ("embeddings", "token embeddings", True),
        ("decoder.12", "layer 12, residual after the MLP", True),
        ("decoder.3.mixer.query", "layer 3, query", False),
        ("decoder.0.mlp.something", "layer 0, mlp.something", False),
        ("logits", "output head", True),
    ],
)
def test_a_name_tells_layer_and_operation(name: str, location: str, block_level: bool) -> None:
    assert str(locate_tensor(name)) == location
    assert is_block_level(name) is block_level


def test_every_operation_is_one_of_the_protocol() -> None:
    told = str(base.__doc__)
    assert not [operation for operation in BLOCK_OPERATIONS if f"decoder.<i>.{operation}".rstrip(".") not in told]
