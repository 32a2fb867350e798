"""The forward pass against transformers: every architecture, option and tensor, beyond windows and RoPE lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.reference.cases import CASES, MOE_CASES, errors, trace_request
from tests.standin.own_models import OWN_MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import DType
    from tests.ci.subjects.reference.conftest import ModelFactory


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_equals_transformers(factory: ModelFactory, name: str) -> None:
    by_tensor = errors(factory.trace(name), factory.expected(name))
    limit = 5e-6 if name.startswith("apriel2") else 1e-6  # transformers' chunks of a recurrence round more
    assert max(by_tensor.values()) <= limit, by_tensor


@pytest.mark.parametrize("name", OWN_MODELS)
def test_in_float64_every_tensor_is_the_same_number(factory: ModelFactory, name: str) -> None:
    """Rotary tables are in float32; all else is exact, a recurrence token by token as one in chunks of 64."""
    by_tensor = errors(factory.trace(name, "float64"), factory.expected(name, "float64"))
    assert max(by_tensor.values()) <= 2e-7, by_tensor


@pytest.mark.parametrize("name", ["gdn", "kda"])
def test_a_recurrence_in_float64_is_exact(factory: ModelFactory, name: str) -> None:
    case = {"gdn": "apriel2-stochastic", "kda": "apriel2-sigmoid"}[name]
    by_tensor = errors(factory.trace(case, "float64"), factory.expected(case, "float64"))
    assert max(by_tensor.values()) <= 1e-13, by_tensor


@pytest.mark.parametrize("attention", ["sdpa", "blockwise"])
@pytest.mark.parametrize("name", ["dream", "mtp", "llama-head-dim", "mistral-window", "qwen2-sliding"])
def test_attention_variants_equal_transformers(factory: ModelFactory, name: str, attention: str) -> None:
    by_tensor = errors(factory.trace(name, attention=attention), factory.expected(name))
    assert max(by_tensor.values()) <= 1e-6, by_tensor


@pytest.mark.parametrize("name", MOE_CASES)
def test_dropless_equals_transformers(factory: ModelFactory, name: str) -> None:
    by_tensor = errors(factory.trace(name, moe="dropless"), factory.expected(name))
    assert max(by_tensor.values()) <= 1e-6, by_tensor


@pytest.mark.parametrize("name", ["llama-biases", "llama-yarn", "mistral-window", "qwen2"])
def test_bfloat16_errs_as_transformers_does(factory: ModelFactory, name: str) -> None:
    expected = factory.expected(name, "float64")
    ours, theirs = (
        errors(path, expected) for path in (factory.trace(name, "bfloat16"), factory.expected(name, "bfloat16"))
    )
    worse = {tensor: (ours[tensor], theirs[tensor]) for tensor in ours if not ours[tensor] <= 2 * theirs[tensor]}
    assert not worse


@pytest.mark.parametrize("name", ["llama-llama3", "mixtral-window"])
def test_float64_is_closer_than_float32(factory: ModelFactory, name: str) -> None:
    expected = factory.expected(name, "float64")
    double, single = (max(errors(factory.trace(name, dtype), expected).values()) for dtype in ("float64", "float32"))
    assert double < single < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama-yarn", "qwen2-sliding", "mixtral-window"])
def test_a_gpu_answers_as_the_cpu_does(factory: ModelFactory, tmp_path: Path, name: str, dtype: DType) -> None:
    expected = factory.expected(name, "float64")
    for variant in factory.subject.variants(str(factory.converted(name))):
        output = tmp_path / f"{variant.axis}-{variant.name}"
        request = trace_request(factory.converted(name), factory.inputs, output, dtype=dtype, capture="all")
        result = factory.subject.trace(replace(request, device="cuda", variant={variant.axis: variant.name}))
        on_cpu = errors(factory.trace(name, dtype), expected)
        assert result.ran[variant.axis] == variant.name
        assert result.peak_device_bytes > 0
        assert all(error <= max(2 * on_cpu[key], 1e-6) for key, error in errors(output, expected).items())


def test_norms_cast_where_transformers_casts(factory: ModelFactory) -> None:
    """In bfloat16 the weight meets what was already cast: the first norm has no error of its own."""
    ours, theirs = (TraceReader(side("qwen2", "bfloat16")) for side in (factory.trace, factory.expected))
    for name in ("embeddings", "decoder.0.norm_1"):
        assert ours.tensor(name).equal(theirs.tensor(name))
