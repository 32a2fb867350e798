"""The forward pass against transformers: every architecture, option and tensor, beyond windows and RoPE lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.reference.cases import MOE_CASES, RECIPES, errors, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import DType
    from tests.ci.subjects.reference.conftest import Workshop


@pytest.mark.parametrize("name", RECIPES)
def test_every_tensor_equals_transformers(workshop: Workshop, name: str) -> None:
    found = errors(workshop.trace(name), workshop.truth(name))
    assert max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("attention", ["sdpa", "blockwise"])
@pytest.mark.parametrize("name", ["llama-head-dim", "mistral-window", "qwen2-sliding"])
def test_attention_variants_equal_transformers(workshop: Workshop, name: str, attention: str) -> None:
    found = errors(workshop.trace(name, attention=attention), workshop.truth(name))
    assert max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("name", MOE_CASES)
def test_dropless_equals_transformers(workshop: Workshop, name: str) -> None:
    found = errors(workshop.trace(name, moe="dropless"), workshop.truth(name))
    assert max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("name", ["llama-biases", "llama-yarn", "mistral-window", "qwen2"])
def test_bfloat16_errs_as_transformers_does(workshop: Workshop, name: str) -> None:
    truth = workshop.truth(name, "float64")
    ours, theirs = (
        errors(path, truth) for path in (workshop.trace(name, "bfloat16"), workshop.truth(name, "bfloat16"))
    )
    worse = {tensor: (ours[tensor], theirs[tensor]) for tensor in ours if not ours[tensor] <= 2 * theirs[tensor]}
    assert not worse


@pytest.mark.parametrize("name", ["llama-llama3", "mixtral-window"])
def test_float64_is_closer_than_float32(workshop: Workshop, name: str) -> None:
    truth = workshop.truth(name, "float64")
    double, single = (max(errors(workshop.trace(name, dtype), truth).values()) for dtype in ("float64", "float32"))
    assert double < single < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama-yarn", "qwen2-sliding", "mixtral-window"])
def test_a_gpu_answers_as_the_cpu_does(workshop: Workshop, tmp_path: Path, name: str, dtype: DType) -> None:
    truth = workshop.truth(name, "float64")
    for variant in workshop.subject.variants(str(workshop.converted(name))):
        output = tmp_path / f"{variant.axis}-{variant.name}"
        request = trace_request(workshop.converted(name), workshop.inputs, output, dtype=dtype, capture="all")
        result = workshop.subject.trace(replace(request, device="cuda", variant={variant.axis: variant.name}))
        on_cpu = errors(workshop.trace(name, dtype), truth)
        assert result.ran[variant.axis] == variant.name
        assert result.peak_device_bytes > 0
        assert all(error <= max(2 * on_cpu[key], 1e-6) for key, error in errors(output, truth).items())


def test_norms_cast_where_transformers_casts(workshop: Workshop) -> None:
    """In bfloat16 the weight meets what was already cast: the first norm has no error of its own."""
    ours, theirs = (TraceReader(side("qwen2", "bfloat16")) for side in (workshop.trace, workshop.truth))
    for name in ("embeddings", "decoder.0.norm_1"):
        assert ours.tensor(name).equal(theirs.tensor(name))
