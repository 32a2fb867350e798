"""Where each checkpoint format has its weights in a Hugging Face directory, and Fast-LLM's names outside of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EMBEDDINGS_WEIGHT: Final = "embeddings.word_embeddings_weight"
HEAD_WEIGHT: Final = "head.output_weights"
FINAL_NORM_WEIGHT: Final = "head.final_norm.weight"
PATCH_WEIGHT: Final = "vision_encoder.embeddings.patch_embeddings.weight"
PATCH_NORM_WEIGHT: Final = "vision_encoder.embeddings.normalization.weight"


@dataclass(frozen=True)
class BlockNames:
    """The names of a block's modules in a Hugging Face directory, `mamba` that of a Mamba mixer."""

    mixer: str = "self_attn"
    mlp: str = "mlp"
    norm_1: str = "input_layernorm"
    norm_2: str = "post_attention_layernorm"
    mamba: str = "mixer"


VISION_BLOCK: Final = BlockNames("attention", "feed_forward", "attention_norm", "ffn_norm")


@dataclass(frozen=True)
class WeightNames:
    """The names in a Hugging Face directory, `block` those of a block's modules."""

    embeddings: str = "model.embed_tokens.weight"
    blocks: str = "model.layers"
    block: BlockNames = BlockNames()
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    prediction_blocks: str = "model.mtp_heads"
    prediction_norms: str = "model.mtp_norms"


WEIGHT_NAMES: Final = {
    "mtp_llama": WeightNames(final_norm="model.mtp_norms.0.weight"),
    "apriel2_text": WeightNames(blocks="model.decoder.blocks", block=BlockNames(mixer="mixer")),
    "llava": WeightNames(
        embeddings="language_model.model.embed_tokens.weight",
        blocks="language_model.model.layers",
        final_norm="language_model.model.norm.weight",
        head="language_model.lm_head.weight",
    ),
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
