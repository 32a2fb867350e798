"""The rules of truncation: what happens to each field of a config.json that depends on the layers. One row a field.

What no field says about a model type is in `ci.hub.architectures`.

A rule applies to the object that holds the depth (the whole config, or its `text_config`) and to objects nested in it.
A field that looks as if it had one value a layer and has no row is an error (`ci.hub.truncation`): a guess would give a
model that loads and differs from the upstream one.
"""

from __future__ import annotations

import re
from enum import Enum


class Rule(Enum):
    """What happens to a field when layers [0, N) are kept."""

    VALUE_PER_LAYER = "one value a layer: the first N stay"
    INDICES_FROM_0 = "indices of layers, from 0: those below N stay"
    INDICES_FROM_1 = "indices of layers, from 1: those up to N stay"
    INDEX_KEYS = "keys are indices of layers: those below N stay"
    LAYER_COUNT = "a count of layers from the start, or the first index that differs: at most N"
    LAST_INDEX = "index of the last layer that differs: at most N - 1"
    LETTER_PER_LAYER = "one letter a layer: the first N stay"
    REPEATED_PATTERNS = "pairs of a pattern and its repeats: written out, the first N stay"
    MTP = "layers of multi-token prediction: dropped, so 0 or empty"
    PERIOD = "every n-th layer differs, which its tensors do not show: unchanged, tells the kinds of layers apart"
    PERIOD_OF_TENSORS = "every n-th layer differs, as its tensors show: unchanged"
    CYCLE = (
        "a list of kinds that repeats over the layers: unchanged for the first N, written out for a choice of layers"
    )
    NAMES = "names of modules, in which layers are numbered: unchanged for the first N"
    UNCHANGED = "does not depend on the depth"
    DEPTH_SCALE = "divided by the square root of the depth in each layer: multiplied by that of N / depth"
    REFUSE = "ties other layers or tensors to the depth: hub-tests cannot truncate this yet"
    UNKNOWN = "looks as if it depended on the layers, and no rule covers it"


DEPTH_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "layers")
"""Fields that hold the number of layers."""
AMBIGUOUS_DEPTH_FIELDS = {"num_blocks": ("block", "blocks", "num_hidden_layers"), "layers": ("ffn_dim",)}
"""Such fields that count layers only beside one of these.

`num_blocks` does in Fast-LLM's apriel2 and in xLSTM, not in Perceiver; `layers` does in Kosmos.
"""
ENCODER_DEPTH_FIELDS = ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers")
DECODER_DEPTH_FIELDS = ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers")
DEPTH_LIST_FIELD = "layers_block_type"
"""A list with one value a layer that gives the depth where no number does (Nemotron-H)."""

FIELD_RULES: dict[str, Rule] = {
    # one value a layer
    "layer_types": Rule.VALUE_PER_LAYER,
    "hybrid_block_layout": Rule.VALUE_PER_LAYER,  # Fast-LLM's apriel_hybrid_ssm and llava_hybrid
    "hybrid_layer_pattern": Rule.VALUE_PER_LAYER,  # MiMo-V2-Flash
    "attn_type_list": Rule.VALUE_PER_LAYER,  # MiniMax
    "sparse_attention_freq": Rule.VALUE_PER_LAYER,  # MiniMax-M3, in sparse_attention_config
    "sparse_disable_index_value": Rule.VALUE_PER_LAYER,  # beside it
    "compress_ratios": Rule.VALUE_PER_LAYER,  # DeepSeek-V4; those of its MTP layers follow
    "mlp_layer_types": Rule.VALUE_PER_LAYER,
    "moe_layer_freq": Rule.VALUE_PER_LAYER,
    "indexer_types": Rule.VALUE_PER_LAYER,
    "no_rope_layers": Rule.VALUE_PER_LAYER,
    "layers_block_type": Rule.VALUE_PER_LAYER,
    "layer_rope_theta": Rule.VALUE_PER_LAYER,
    "num_attention_heads_per_layer": Rule.VALUE_PER_LAYER,
    "num_key_value_heads_per_layer": Rule.VALUE_PER_LAYER,
    "activation_sparsity_pattern": Rule.VALUE_PER_LAYER,
    "attention_layers": Rule.VALUE_PER_LAYER,
    "attn_layers": Rule.VALUE_PER_LAYER,
    "block_configs": Rule.VALUE_PER_LAYER,
    "ffn_multipliers": Rule.VALUE_PER_LAYER,
    "num_query_heads": Rule.VALUE_PER_LAYER,
    "num_kv_heads": Rule.VALUE_PER_LAYER,
    "intermediate_size": Rule.VALUE_PER_LAYER,
    "num_attention_heads": Rule.VALUE_PER_LAYER,
    "num_key_value_heads": Rule.VALUE_PER_LAYER,
    "sliding_window": Rule.VALUE_PER_LAYER,
    "kv_source_layers": Rule.VALUE_PER_LAYER,
    "attention_types": Rule.REPEATED_PATTERNS,
    "hybrid_override_pattern": Rule.LETTER_PER_LAYER,
    # numbers of layers
    "mlp_only_layers": Rule.INDICES_FROM_0,
    "moe_layers": Rule.INDICES_FROM_0,
    "cross_attention_layers": Rule.INDICES_FROM_0,
    "attn_layer_indices": Rule.INDICES_FROM_0,
    "full_attn_idxs": Rule.INDICES_FROM_0,
    "ple_layer_ids": Rule.INDICES_FROM_0,
    "local_layer_ids": Rule.INDICES_FROM_0,
    "hybrid_layer_ids": Rule.INDICES_FROM_0,
    "rope_scaling_layers": Rule.INDICES_FROM_0,
    "kda_layers": Rule.INDICES_FROM_1,
    "full_attn_layers": Rule.INDICES_FROM_1,
    "per_layer_config": Rule.INDEX_KEYS,
    # how many from the start
    "first_k_dense_replace": Rule.LAYER_COUNT,
    "num_dense_layers": Rule.LAYER_COUNT,
    "max_window_layers": Rule.LAYER_COUNT,
    "num_hash_layers": Rule.LAYER_COUNT,  # DeepSeek-V4: layers from the start that choose experts by token id
    "moe_layer_start_index": Rule.LAYER_COUNT,
    "moe_layer_end_index": Rule.LAST_INDEX,
    # scales that the class divides by the square root of the depth (MiniCPM)
    "scale_depth": Rule.DEPTH_SCALE,
    # multi-token prediction
    "num_nextn_predict_layers": Rule.MTP,
    "num_mtp_layers": Rule.MTP,
    "num_mtp_modules": Rule.MTP,  # MiniMax
    "mtp_num_hidden_layers": Rule.MTP,
    "mtp_layer_types": Rule.MTP,
    "mtp_mlp_layer_types": Rule.MTP,
    "mtp_local_layer_ids": Rule.MTP,
    "mtp_layers_block_type": Rule.MTP,
    "mtp_hybrid_override_pattern": Rule.MTP,
    # periods; those of modules with tensors of their own show in the tensors' names
    "no_rope_layer_interval": Rule.PERIOD,
    "sliding_window_pattern": Rule.PERIOD,
    "_sliding_window_pattern": Rule.PERIOD,
    "prefix_dense_sliding_window_pattern": Rule.PERIOD,
    "global_attn_every_n_layers": Rule.PERIOD,
    "attn_layer_period": Rule.PERIOD_OF_TENSORS,
    "cross_layer_interval": Rule.PERIOD_OF_TENSORS,
    "decoder_sparse_step": Rule.PERIOD_OF_TENSORS,
    "expert_layer_period": Rule.PERIOD_OF_TENSORS,
    "full_attention_interval": Rule.PERIOD_OF_TENSORS,
    "interleave_moe_layer_step": Rule.PERIOD_OF_TENSORS,
    "layer_group_size": Rule.PERIOD_OF_TENSORS,
    "moe_layer_interval": Rule.PERIOD_OF_TENSORS,
    # per-layer tensors that are slices of one, or layers that read another layer's keys and values
    "hidden_size_per_layer_input": Rule.REFUSE,
    "num_kv_shared_layers": Rule.REFUSE,
    # repeated kinds
    "pattern": Rule.CYCLE,  # Fast-LLM's apriel2, in `decoder`
    # no dependence, in spite of the name or of a length that may equal the depth
    "architectures": Rule.UNCHANGED,
    "attn_layer_offset": Rule.UNCHANGED,
    "bad_words_ids": Rule.UNCHANGED,
    "begin_suppress_tokens": Rule.UNCHANGED,
    "block_types": Rule.UNCHANGED,
    "eos_token_id": Rule.UNCHANGED,
    "expert_layer_offset": Rule.UNCHANGED,
    "id2label": Rule.UNCHANGED,
    "label2id": Rule.UNCHANGED,
    "mamba_d_ssm": Rule.UNCHANGED,
    "mtp_transformer_layers": Rule.UNCHANGED,  # MiniMax: layers of each MTP module, of which none is left
    "mrope_section": Rule.UNCHANGED,
    "num_mem_blocks": Rule.UNCHANGED,
    "num_random_blocks": Rule.UNCHANGED,
    "pad_token_id": Rule.UNCHANGED,
    "quantization_config": Rule.NAMES,
    "rope_parameters": Rule.UNCHANGED,
    "rope_scaling": Rule.UNCHANGED,
    "suppress_tokens": Rule.UNCHANGED,
    "time_step_limit": Rule.UNCHANGED,
    "torch_dtype": Rule.UNCHANGED,
    "vision_feature_layer": Rule.UNCHANGED,
    "vocab_size_per_layer_input": Rule.UNCHANGED,
}
"""Rules by field name. Sources: the config classes of transformers 5, and the config.json of remote-code models."""

LAYER_WORDS = re.compile(r"(?:^|_)(?:layers?|blocks?|mtp|nextn)(?:_|$)")
"""A list, object or text with such a name describes layers."""
INDEX_WORDS = re.compile(r"(?:^|_)(?:idxs?|indices|indexes)$")
"""A list with such a name holds indices; indices of layers if all are below the depth."""
COUNT_WORDS = re.compile(
    r"layers?$|(?:^|_)depth$|^(?:num|n)_.*(?:layers|blocks)|every_n|mtp|nextn"
    r"|layers?_.*(?:index|idx|interval|period|step|freq|offset|start|end)"
)
"""A whole number with such a name counts layers or is the index of one."""
OTHER_MODALITY = re.compile(
    r"vision|visual|image|audio|speech|sound|codec|(?:^|_)vq|talker|2wav|backbone_config|qformer|resampler|perceiver|projector|protein"
)
"""A nested config or a module of another modality: it keeps its own depth."""
MIN_LAYERS_FIELDS = {"deepstack_visual_indexes": "each of the first layers adds features of the vision model"}
"""Lists, anywhere in the config, with one entry for each of the first layers that must be kept."""
MTP_LAYER_COUNT = "num_nextn_predict_layers"
"""How many layers of multi-token prediction follow the last layer in the same list (DeepSeek-V3, GLM-4.5)."""
ENABLED_BY = {"max_window_layers": "use_sliding_window"}
"""Fields that tell layers apart only where another field beside them is true."""
TEXT_CONFIG_PATHS = (("text_config",), ("llm_config",), ("language_config",))
"""Where the text model's config is nested when configs of other stacks are beside it."""
