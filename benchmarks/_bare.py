"""The bare script that the suite is compared with: each model loaded once, the same forward passes, nothing else."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM

from ci.subjects.forward import DTYPES
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.model import Context
from ci.subjects.reference.trace import load_model

if TYPE_CHECKING:
    from ci.subjects.base import DType


def main(forwards: str, hf: str, converted: str) -> None:
    """Run the passes in the file `forwards` on the Hugging Face directory and its conversion."""
    listed = json.loads(Path(forwards).read_text())
    with torch.inference_mode():
        for (who, _, dtype), group in groupby(sorted(listed, key=same_model), key=same_model):
            run = hugging_face if who == "hugging_face" else reference
            run(hf if who == "hugging_face" else converted, DTYPES[cast("DType", dtype)], list(group))


def same_model(forward: dict[str, Any]) -> tuple[str, str, str]:
    """Return the side, checkpoint and dtype that must be loaded for a forward pass."""
    return forward["who"], forward["checkpoint"], forward["dtype"]


def hugging_face(path: str, dtype: torch.dtype, forwards: list[dict[str, Any]]) -> None:
    """Run the forward passes with stock transformers."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()
    for forward in forwards:
        model.set_attn_implementation(forward["ran"]["attention"])
        if "experts" in forward["ran"]:
            model.set_experts_implementation(forward["ran"]["experts"])
        for rows, tokens in forward["shapes"]:
            model(torch.ones(rows, tokens, dtype=torch.long), use_cache=False)


def reference(path: str, dtype: torch.dtype, forwards: list[dict[str, Any]]) -> None:
    """Run the forward passes with the reference's own model, capturing nothing."""
    checkpoint = read_fast_llm(Path(path))
    model = load_model(checkpoint, dtype, "cpu")
    for forward in forwards:
        ran = forward["ran"]
        for rows, tokens in forward["shapes"]:
            positions = torch.arange(tokens)[None]
            context = Context(positions, attention=ran["attention"], moe=ran.get("moe", "looped"))
            hidden = model.embed(torch.ones(rows, tokens, dtype=torch.long))
            for index in range(len(checkpoint.architecture.blocks)):
                hidden = model.run_block(index, hidden, context, ignore)
            model.run_head(hidden, ignore)


def ignore(name: str, tensor: torch.Tensor) -> None:
    """Capture nothing."""


if __name__ == "__main__":
    main(*sys.argv[1:])
