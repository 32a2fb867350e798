"""The forward pass against transformers: every architecture, option and tensor, beyond windows and RoPE lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ci.subjects.reference.cases import MOE_CASES, RECIPES, errors

if TYPE_CHECKING:
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
