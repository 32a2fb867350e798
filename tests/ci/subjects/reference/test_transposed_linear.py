from __future__ import annotations

import pytest
import torch

from ci.subjects.reference.transposed_linear import transposed_linear


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_it_multiplies_by_the_weight_as_stored(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor, weight = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((2, 3, 5), (5, 7)))
    expected = (tensor.double() @ weight.double()).to(dtype)
    torch.testing.assert_close(transposed_linear(tensor, weight), expected)
