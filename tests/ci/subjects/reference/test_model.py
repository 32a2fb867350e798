"""The forward pass against transformers: every architecture, option and tensor, beyond windows and RoPE lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.model import Context, Model
from ci.subjects.reference.trace import load_model
from ci.subjects.trace_files import TraceReader
from tests.ci.subjects.reference.cases import MOE_CASES, RECIPES, errors, trace_request
from tests.ci.subjects.reference.test_convert import tensors

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import DType
    from ci.subjects.reference.convert import Parameter
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


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("llama-biases", {}),
        ("llama-tied", {"attention": "blockwise"}),
        ("mixtral-window", {"attention": "sdpa", "moe": "looped"}),
        ("mixtral-window", {"moe": "dropless"}),
    ],
)
def test_gradients_equal_transformers(workshop: Workshop, tmp_path: Path, name: str, variant: dict[str, str]) -> None:
    """No path is detached, no tied gradient lost: each parameter by its Hugging Face name."""
    ids = torch.randint(0, 331, (1, 60), generator=torch.Generator().manual_seed(1))
    theirs = hugging_face_gradients(workshop.source(name), ids, tmp_path / "gradients")
    ours = reference_gradients(workshop.converted(name), ids, variant)
    assert ours.keys() == theirs.keys()
    found = {key: float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in theirs}
    assert max(found.values()) <= 3e-6, found


def hugging_face_gradients(source: Path, ids: torch.Tensor, output: Path) -> dict[str, torch.Tensor]:
    """By the names on disk: transformers fuses the experts in memory, their gradients go out as weights do."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(output)
    return tensors(output)


def reference_gradients(converted: Path, ids: torch.Tensor, variant: dict[str, str]) -> dict[str, torch.Tensor]:
    checkpoint = read_fast_llm(converted)
    model = load_model(checkpoint, torch.float32, "cpu")
    context = Context(torch.arange(ids.shape[1])[None], **variant)  # type: ignore[arg-type]
    for weight in model.weights.values():
        weight.requires_grad_()
    hidden = model.embed(ids)
    for index in range(len(checkpoint.architecture.blocks)):
        hidden = model.run_block(index, hidden, context, lambda *_: None)
    logits = model.run_head(hidden, lambda *_: None)
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))
    return {
        part.name: rows.t() if part.transposed else rows
        for parameter in checkpoint.parameters
        for part, rows in zip(parameter.parts, gradient_rows(model, parameter), strict=True)
    }


def gradient_rows(model: Model, parameter: Parameter) -> tuple[torch.Tensor, ...]:
    gradient = model.weights[parameter.name].grad
    assert gradient is not None, parameter.name
    return gradient.split_with_sizes([part.rows for part in parameter.parts])


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
