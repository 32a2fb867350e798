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

    from ci.subjects.reference.model import Model
    from ci.subjects.reference.parameter import Parameter, Part


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
    trained = (p for p in checkpoint.parameters if not p.name.endswith(".output_scale"))  # Hugging Face's is a buffer
    gradients = {name: rows for p in trained for name, rows in _split_gradient(model, p).items()}
    save_file(gradients, Path(request.output) / "model.safetensors")
    return GradientResult(loss=loss.detach().item(), ran=dict(context.ran), seconds=cost.seconds)


def _split_gradient(model: Model, parameter: Parameter) -> dict[str, Tensor]:
    """Cut the gradient of a Fast-LLM parameter into its Hugging Face tensors."""
    gradient = model.weights[parameter.name].grad
    if gradient is None:
        raise SubjectError(f"reference: no gradient reaches {parameter.name}")
    rows = gradient.cpu().split_with_sizes([part.rows for part in parameter.parts])
    return {part.name: _shape_part(part, row) for part, row in zip(parameter.parts, rows, strict=True)}


def _shape_part(part: Part, rows: Tensor) -> Tensor:
    """Return rows of a Fast-LLM parameter in the shape of the Hugging Face tensor that they come from."""
    stacked = rows.view(part.matrices, -1, *part.row_shape) if len(part.shape) == 3 else rows
    return (stacked.mT if part.transposed else stacked).contiguous()


def _ignore(name: str, tensor: Tensor) -> None:
    """Record nothing."""
