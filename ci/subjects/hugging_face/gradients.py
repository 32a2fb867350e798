"""Computes the gradients of a transformers model, under the names that its parameters have on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ci.errors import SubjectError
from ci.subjects.base import GradientRequest, GradientResult
from ci.subjects.forward import measure_cost, read_inputs
from ci.subjects.hugging_face.model_arguments import collect_arguments, find_image_token
from ci.subjects.hugging_face.structure import list_idle_parameters

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.safetensors"
IGNORED = -100
"""A target that does not count."""


def write_gradients(model: Any, request: GradientRequest, ran: dict[str, str]) -> GradientResult:
    """Run the forward and backward pass and write the gradients, which overwrite the model's weights.

    Where several mixers take turns, those that did not run have none.

    transformers fuses experts in memory; `save_pretrained` converts them to the names and shapes on disk. So the
    gradients are saved as if they were weights.
    """
    from transformers import GenerationConfig

    inputs = read_inputs(Path(request.inputs)).to(request.device)
    ids, images = inputs.ids, inputs.images
    with measure_cost(request.device) as cost:
        others = collect_arguments(model, images, next(model.parameters()).dtype)
        image = None if images is None else find_image_token(model.config)
        loss = compute_loss(model(input_ids=ids, use_cache=False, **others).logits, ids, image=image)
        torch.autograd.backward(loss)
    idle = list_idle_parameters(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in idle:
                continue
            if parameter.grad is None:
                raise SubjectError(f"Hugging Face, {request.checkpoint}: no gradient reaches {name}")
            parameter.copy_(parameter.grad)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config = GenerationConfig()  # a model's own may refuse to be written
    model.save_pretrained(request.output)
    merge_shards(Path(request.output))
    drop_tensors(Path(request.output), idle | {name for name, _ in model.named_buffers()})
    return GradientResult(loss=loss.detach().item(), ran=ran, seconds=cost.seconds)


def compute_loss(logits: Tensor, ids: Tensor, *, image: int | None = None) -> Tensor:
    """Return the mean cross entropy in nats of logits (1, T, vocabulary) for the next tokens.

    The token `image` is no target.
    Of several prediction heads, logits (1, T, heads, vocabulary), it is the sum of their means. Head k predicts the
    token k + 1 places further; tokens count for which every head has a target.
    """
    heads = logits.unbind(dim=2) if logits.ndim == 4 else (logits,)
    last = ids.shape[1] - len(heads)
    targets = ids if image is None else ids.masked_fill(ids == image, IGNORED)
    losses = [
        torch.nn.functional.cross_entropy(part[0, :last], targets[0, head : head + last], ignore_index=IGNORED)
        for head, part in enumerate(heads, start=1)
    ]
    return torch.stack(losses).sum()


def drop_tensors(directory: Path, names: set[str]) -> None:
    """Remove tensors from model.safetensors: a buffer that is saved with the weights has no gradient."""
    tensors = load_file(directory / FILE)
    if names & tensors.keys():
        save_file({name: tensor for name, tensor in tensors.items() if name not in names}, directory / FILE)


def merge_shards(directory: Path) -> None:
    """Merge all shards of a directory into model.safetensors."""
    shards = sorted(directory.glob("*.safetensors"))
    if [shard.name for shard in shards] != [FILE]:
        tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
        save_file(tensors, directory / FILE)
        for shard in shards:
            shard.unlink()
