"""Finds the parts of a vision tower that gives one feature for each image token: Pixtral's, and Fast-LLM's apriel2.

A tower of another form (several patches a token) is found in part or not at all: what is not found is not captured. One
with a class token is refused before: `ci.equivalence.image_inputs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ci.subjects.hugging_face.structure import find_child
from ci.tensor_names import PATCHES, PROJECTOR, list_block_operations, list_vision_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

TOWERS = ("vision_tower", "vision_encoder")
PROJECTORS = ("multi_modal_projector", "adapter")


@dataclass(frozen=True)
class VisionBlock:
    """A tower's block: its norm before the MLP, its mixer and its MLP."""

    module: nn.Module
    mixer: nn.Module
    mlp: nn.Module
    norm_before_mlp: nn.Module


@dataclass(frozen=True)
class VisionParts:
    """The norm that reads the projected patches, the blocks in order, and the projector behind them."""

    norm: nn.Module
    blocks: tuple[VisionBlock, ...]
    projector: nn.Module


def find_image_token(config: Any) -> int | None:
    """Return the id of the tokens that stand for images; None for a model without."""
    named = (getattr(config, key, None) for key in ("image_token_index", "image_token_id"))
    return next((token for token in named if isinstance(token, int)), None)


def find_vision_parts(model: nn.Module) -> VisionParts | None:
    """Return the parts of the model's tower; None where one of them has no known form."""
    tower, projector = _find_named(model, TOWERS), _find_named(model, PROJECTORS)
    if tower is None or projector is None:
        return None
    embeddings, stacks = find_child(tower, "embeddings"), [m for m in tower.modules() if isinstance(m, nn.ModuleList)]
    norm = find_child(tower, "ln_pre") or (embeddings and find_child(embeddings, "normalization"))
    blocks = [_find_block(module) for module in stacks[0]] if len(stacks) == 1 else []
    known = tuple(block for block in blocks if block is not None)
    return VisionParts(norm, known, projector) if norm and known and len(known) == len(blocks) else None


def list_expected_of_images(model: Any) -> tuple[str, ...]:
    """Return every name of a full capture before the decoder; of an unknown tower those of its two ends."""
    parts = find_vision_parts(model)
    if parts is None:
        return (PATCHES, PROJECTOR)
    return list_vision_tensors([list_block_operations(experts=False) for _ in parts.blocks])


def _find_block(block: nn.Module) -> VisionBlock | None:
    mixer, mlp = find_child(block, "attention", "mixer"), find_child(block, "feed_forward", "mlp")
    norm = find_child(block, "ffn_norm", "post_attention_layernorm")
    return None if mixer is None or mlp is None or norm is None else VisionBlock(block, mixer, mlp, norm)


def _find_named(model: nn.Module, names: Sequence[str]) -> nn.Module | None:
    return next((module for name, module in model.named_modules() if name.rpartition(".")[2] in names), None)
