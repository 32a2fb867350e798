"""Gradients of a transformers model, by the names that its parameters have on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ci.errors import SubjectError
from ci.subjects.base import GradientRequest, GradientResult
from ci.subjects.forward import measured, read_inputs

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model.safetensors"


def differentiate(model: Any, request: GradientRequest, ran: dict[str, str]) -> GradientResult:
    """Run, differentiate, write. The model's weights are gone afterwards: gradients take their place.

    transformers fuses experts in memory; `save_pretrained` turns them into what is on disk, gradients as weights.
    """
    ids = read_inputs(Path(request.inputs)).ids.to(request.device)
    with measured(request.device) as cost:
        loss = next_token_loss(model(input_ids=ids, use_cache=False).logits, ids)
        torch.autograd.backward(loss)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                raise SubjectError(f"Hugging Face, {request.checkpoint}: no gradient reaches {name}")
            parameter.copy_(parameter.grad)
    model.save_pretrained(request.output)
    in_one_file(Path(request.output))
    return GradientResult(loss=loss.detach().item(), ran=ran, seconds=cost.seconds)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross entropy in nats of (1, T, vocabulary) logits against the tokens that follow."""
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])


def in_one_file(directory: Path) -> None:
    """What several shards hold, in model.safetensors alone."""
    shards = sorted(directory.glob("*.safetensors"))
    if [shard.name for shard in shards] != [FILE]:
        tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
        save_file(tensors, directory / FILE)
        for shard in shards:
            shard.unlink()
