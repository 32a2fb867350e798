"""Where each checkpoint format has its weights in a Hugging Face directory, and Fast-LLM's names outside of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EMBEDDINGS_WEIGHT: Final = "embeddings.word_embeddings_weight"
HEAD_WEIGHT: Final = "head.output_weights"
FINAL_NORM_WEIGHT: Final = "head.final_norm.weight"


@dataclass(frozen=True)
class WeightNames:
    """The names in a Hugging Face directory; `mixer` is the module of a block, without a number."""

    embeddings: str = "model.embed_tokens.weight"
    blocks: str = "model.layers"
    mixer: str = "self_attn"
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    prediction_blocks: str = "model.mtp_heads"
    prediction_norms: str = "model.mtp_norms"


WEIGHT_NAMES: Final = {
    "mtp_llama": WeightNames(final_norm="model.mtp_norms.0.weight"),
    "apriel2_text": WeightNames(blocks="model.decoder.blocks", mixer="mixer"),
}
"""The formats whose names are not those of Llama."""


def find_weight_names(checkpoint_format: str) -> WeightNames:
    """Return the names of a checkpoint format."""
    return WEIGHT_NAMES.get(checkpoint_format, WeightNames())


def name_prediction_block(head: int) -> str:
    """Return Fast-LLM's name of the block of prediction head `head`, from 1."""
    return f"multi_token_prediction.blocks.{head - 1}"


def name_prediction_norm(head: int) -> str:
    """Return Fast-LLM's name of the norm's weight of prediction head `head`, from 1."""
    return f"multi_token_prediction.heads.{head - 1}.final_norm.weight"
