"""Computes the gradients of the reference's forward pass, under Hugging Face's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from ci.errors import SubjectError
from ci.subjects.base import GradientRequest, GradientResult, TraceRequest
from ci.subjects.forward import DTYPES, exact_arithmetic, measure_cost, read_inputs
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.trace import load_model, make_context

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.reference.convert import Parameter
    from ci.subjects.reference.model import Model


def run_gradients(request: GradientRequest) -> GradientResult:
    """Run the forward and backward pass and write the gradients.

    Raises SubjectError where no gradient reaches a parameter.
    """
    checkpoint, inputs = read_fast_llm(Path(request.checkpoint)), read_inputs(Path(request.inputs))
    inputs = inputs.to(request.device)
    context = make_context(
        TraceRequest(request.checkpoint, request.inputs, "", variant=request.variant), checkpoint, inputs
    )
    model = load_model(checkpoint, DTYPES[request.dtype], request.device)
    for weight in model.weights.values():
        weight.requires_grad_()
    with measure_cost(request.device) as cost, exact_arithmetic():
        hidden = model.embed(inputs.ids)
        for index in range(len(checkpoint.architecture.blocks)):
            hidden = model.run_block(index, hidden, context, _ignore)
        logits = model.run_head(hidden, _ignore)
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], inputs.ids[0, 1:])
        torch.autograd.backward(loss)
    Path(request.output).mkdir(parents=True)
    gradients = {name: rows for p in checkpoint.parameters for name, rows in _split_gradient(model, p).items()}
    save_file(gradients, Path(request.output) / "model.safetensors")
    return GradientResult(loss=loss.detach().item(), ran=dict(context.ran), seconds=cost.seconds)


def _split_gradient(model: Model, parameter: Parameter) -> dict[str, Tensor]:
    """Cut the gradient of a Fast-LLM parameter into its Hugging Face tensors."""
    gradient = model.weights[parameter.name].grad
    if gradient is None:
        raise SubjectError(f"reference: no gradient reaches {parameter.name}")
    rows = gradient.cpu().split_with_sizes([part.rows for part in parameter.parts])
    parts = (row.t() if part.transposed else row for part, row in zip(parameter.parts, rows, strict=True))
    return {part.name: row.contiguous() for part, row in zip(parameter.parts, parts, strict=True)}


def _ignore(name: str, tensor: Tensor) -> None:
    """Record nothing."""
