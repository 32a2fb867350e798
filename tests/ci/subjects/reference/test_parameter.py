"""The shape of a Fast-LLM parameter, from the Hugging Face tensors that it is made of."""

from __future__ import annotations

import pytest

from ci.subjects.reference.parameter import Parameter, Part


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ([Part("norm", (5,))], (5,)),
        ([Part("gate", (4, 6)), Part("up", (4, 6))], (8, 6)),
        ([Part("down", (6, 4), transposed=True)], (4, 6)),
        ([Part("experts", (3, 4, 6))], (12, 6)),
        ([Part("experts", (3, 6, 4), transposed=True)], (12, 6)),
        ([Part("convolution", (7, 1, 4), stacked=False)], (7, 1, 4)),
    ],
)
def test_parts_are_stacked_by_rows(parts: list[Part], shape: tuple[int, ...]) -> None:
    assert Parameter("name", tuple(parts)).shape == shape
    assert [part.matrices for part in parts] == [3 if part.name == "experts" else 1 for part in parts]
