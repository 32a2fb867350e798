"""Adds noise to every tensor of a checkpoint: a weight that a subject does not read cannot follow.

This shows norms left at one, biases left at zero, and experts that no input reached before.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.tolerances import PERTURBATION

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def perturb_checkpoint(checkpoint: Path, target: Path, *, seed: int = 0) -> Path:
    """Copy a Hugging Face directory to `target` with noise in every tensor.

    Files are written one by one. Returns `target`.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = CheckpointTensors(checkpoint)
    for file in sorted(set(tensors.files.values())):
        names = [name for name, path in tensors.files.items() if path == file]
        perturbed = {name: _add_noise(tensors.read(name), generator) for name in names}
        save_file(perturbed, target / file.name, metadata={"format": "pt"})
    for companion in checkpoint.iterdir():
        if companion.is_file() and companion.suffix != ".safetensors":
            shutil.copy(companion, target / companion.name)
    return target


def _add_noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Add normal noise of PERTURBATION times the tensor's RMS.

    A tensor of zeros gets PERTURBATION itself. The dtype stays.
    """
    noise = torch.randn(tensor.shape, generator=generator)
    rms = tensor.float().square().mean().sqrt()
    return (tensor.float() + PERTURBATION * (rms if bool(rms > 0) else 1.0) * noise).to(tensor.dtype)
