"""Computes the gradients of the reference's forward pass, under Hugging Face's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from ci.errors import SubjectError
from ci.subjects.base import GradientRequest, GradientResult, TraceRequest
from ci.subjects.forward import DTYPES, exact_arithmetic, measure_cost, read_inputs
from ci.subjects.reference.config import StochasticMixer
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.trace import load_model, make_context
from ci.tensor_names import block_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ci.subjects.reference.config import Architecture
    from ci.subjects.reference.model import Model
    from ci.subjects.reference.parameter import Parameter, Part


def run_gradients(request: GradientRequest) -> GradientResult:
    """Run the forward and backward pass and write the gradients.

    Raises SubjectError where no gradient reaches a parameter.
    """
    checkpoint = read_fast_llm(Path(request.checkpoint), request.checkpoint_format)
    inputs = read_inputs(Path(request.inputs)).to(request.device)
    context = make_context(
        TraceRequest(request.checkpoint, request.inputs, "", variant=request.variant), checkpoint, inputs
    )
    model = load_model(checkpoint, DTYPES[request.dtype], request.device)
    for weight in model.weights.values():
        weight.requires_grad_()
    with measure_cost(request.device) as cost, exact_arithmetic():
        before = hidden = model.embed_all(inputs, context)
        for index in range(len(checkpoint.architecture.blocks)):
            before, hidden = hidden, model.run_block(index, hidden, context, _ignore)
        heads = [model.run_head(hidden, _ignore), *model.run_prediction_heads(before, context, _ignore)]
        image = checkpoint.architecture.image_token if inputs.images else None
        loss = compute_loss(heads, inputs.ids if image is None else inputs.ids.masked_fill(inputs.ids == image, -100))
        torch.autograd.backward(loss)
    Path(request.output).mkdir(parents=True)
    idle = tuple(_list_idle_mixers(checkpoint.architecture, context.mixer))
    trained = (p for p in checkpoint.parameters if not p.name.endswith(".output_scale"))  # Hugging Face's is a buffer
    used = (p for p in trained if not p.name.startswith(idle))
    gradients = {name: rows for p in used for name, rows in _split_gradient(model, p).items()}
    save_file(gradients, Path(request.output) / "model.safetensors")
    return GradientResult(loss=loss.detach().item(), ran=dict(context.ran), seconds=cost.seconds)


def compute_loss(heads: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Return the sum over prediction heads of the mean cross entropy in nats.

    `heads` are the logits (1, T, vocabulary) of each. Tokens count for which every head has a target; -100 is none.
    """
    counted = ids.shape[1] - len(heads)
    targets = (ids[0, head : head + counted] for head in range(1, len(heads) + 1))
    losses = [cross_entropy(logits[0, :counted], target) for logits, target in zip(heads, targets, strict=True)]
    return torch.stack(losses).sum()


def _list_idle_mixers(architecture: Architecture, chosen: str) -> Iterator[str]:
    """Yield how the names of parameters begin whose mixer did not run, where several take turns."""
    for index, block in enumerate(architecture.blocks):
        if isinstance(block.mixer, StochasticMixer):
            ran, _ = block.mixer.choose(chosen)
            names = (name for name, _ in block.mixer.mixers if name != ran)
            yield from (f"{block_name(index)}.mixer.mixers.{name}." for name in names)


def _split_gradient(model: Model, parameter: Parameter) -> dict[str, Tensor]:
    """Cut the gradient of a Fast-LLM parameter into its Hugging Face tensors."""
    gradient = model.weights[parameter.name].grad
    if gradient is None:
        raise SubjectError(f"reference: no gradient reaches {parameter.name}")
    rows = gradient.cpu().split_with_sizes([part.rows for part in parameter.parts])
    return {part.name: _shape_part(part, row) for part, row in zip(parameter.parts, rows, strict=True)}


def _shape_part(part: Part, rows: Tensor) -> Tensor:
    """Return rows of a Fast-LLM parameter in the shape of the Hugging Face tensor that they come from."""
    if len(part.shape) == 4:
        return rows.view(part.shape).contiguous()
    stacked = rows.view(part.matrices, -1, *part.row_shape) if part.stacked and len(part.shape) == 3 else rows
    return (stacked.mT if part.transposed else stacked).contiguous()


def _ignore(name: str, tensor: Tensor) -> None:
    """Record nothing."""
