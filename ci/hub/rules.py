"""What truncation does to each field of a config.json that knows about layers: one row a field.

A rule applies to the dictionary that holds the depth (the whole config, or its `text_config`) and what is nested in
it. A field that looks as if it had one value a layer and has no row is an error (`ci.hub.truncation`): guessing would
give a model that loads and is not the one upstream means.
"""

from __future__ import annotations

import re
from enum import Enum


class Rule(Enum):
    """What becomes of a field when layers [0, N) are kept."""

    FIRST = "one value a layer: the first N stay"
    BELOW = "numbers of layers, from 0: those below N stay"
    UP_TO = "numbers of layers, from 1: those up to N stay"
    KEYS = "keyed by number of layer: keys below N stay"
    AT_MOST = "how many layers from the start, or the first one that differs: at most N"
    LAST = "number of the last layer that differs: at most N - 1"
    LETTERS = "one letter a layer: the first N stay"
    REPEATS = "pairs of a pattern and how often: written out, the first N"
    NO_MTP = "layers that only predict further tokens; they go: 0, or nothing"
    PERIOD = "every n-th layer differs, and its tensors do not show it: stays, and decides which kinds are below N"
    STAYS = "does not depend on the depth"
    REFUSE = "ties other layers or tensors to the depth: not truncated"
    UNKNOWN = "looks as if it depended on the layers, and no rule knows it"


DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Names of the depth itself."""
ENCODER_DEPTH = ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers")
DEPTH_LIST = "layers_block_type"
"""A list with one value a layer that says the depth where no number does (Nemotron-H)."""
DECODER_DEPTH = ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers")

RULES: dict[str, Rule] = {
    # one value a layer
    "layer_types": Rule.FIRST,
    "mlp_layer_types": Rule.FIRST,
    "moe_layer_freq": Rule.FIRST,
    "indexer_types": Rule.FIRST,
    "no_rope_layers": Rule.FIRST,
    "layers_block_type": Rule.FIRST,
    "layer_rope_theta": Rule.FIRST,
    "num_attention_heads_per_layer": Rule.FIRST,
    "num_key_value_heads_per_layer": Rule.FIRST,
    "activation_sparsity_pattern": Rule.FIRST,
    "attention_layers": Rule.FIRST,
    "attn_layers": Rule.FIRST,
    "block_configs": Rule.FIRST,
    "ffn_multipliers": Rule.FIRST,
    "num_query_heads": Rule.FIRST,
    "num_kv_heads": Rule.FIRST,
    "intermediate_size": Rule.FIRST,
    "num_attention_heads": Rule.FIRST,
    "num_key_value_heads": Rule.FIRST,
    "sliding_window": Rule.FIRST,
    "kv_source_layers": Rule.FIRST,
    "attention_types": Rule.REPEATS,
    "hybrid_override_pattern": Rule.LETTERS,
    # numbers of layers
    "mlp_only_layers": Rule.BELOW,
    "moe_layers": Rule.BELOW,
    "cross_attention_layers": Rule.BELOW,
    "attn_layer_indices": Rule.BELOW,
    "full_attn_idxs": Rule.BELOW,
    "ple_layer_ids": Rule.BELOW,
    "local_layer_ids": Rule.BELOW,
    "hybrid_layer_ids": Rule.BELOW,
    "rope_scaling_layers": Rule.BELOW,
    "kda_layers": Rule.UP_TO,
    "full_attn_layers": Rule.UP_TO,
    "per_layer_config": Rule.KEYS,
    # how many from the start
    "first_k_dense_replace": Rule.AT_MOST,
    "num_dense_layers": Rule.AT_MOST,
    "max_window_layers": Rule.AT_MOST,
    "moe_layer_start_index": Rule.AT_MOST,
    "moe_layer_end_index": Rule.LAST,
    # multi-token prediction
    "num_nextn_predict_layers": Rule.NO_MTP,
    "num_mtp_layers": Rule.NO_MTP,
    "mtp_num_hidden_layers": Rule.NO_MTP,
    "mtp_layer_types": Rule.NO_MTP,
    "mtp_mlp_layer_types": Rule.NO_MTP,
    "mtp_local_layer_ids": Rule.NO_MTP,
    "mtp_layers_block_type": Rule.NO_MTP,
    "mtp_hybrid_override_pattern": Rule.NO_MTP,
    # periods; those of modules with tensors of their own show in the tensors' names
    "no_rope_layer_interval": Rule.PERIOD,
    "sliding_window_pattern": Rule.PERIOD,
    "_sliding_window_pattern": Rule.PERIOD,
    "prefix_dense_sliding_window_pattern": Rule.PERIOD,
    "global_attn_every_n_layers": Rule.PERIOD,
    "attn_layer_period": Rule.STAYS,
    "cross_layer_interval": Rule.STAYS,
    "decoder_sparse_step": Rule.STAYS,
    "expert_layer_period": Rule.STAYS,
    "full_attention_interval": Rule.STAYS,
    "interleave_moe_layer_step": Rule.STAYS,
    "layer_group_size": Rule.STAYS,
    "moe_layer_interval": Rule.STAYS,
    # per-layer tensors that are slices of one, or layers that read another layer's keys and values
    "hidden_size_per_layer_input": Rule.REFUSE,
    "num_kv_shared_layers": Rule.REFUSE,
    # no dependence, in spite of the name or of a length that may equal the depth
    "architectures": Rule.STAYS,
    "attn_layer_offset": Rule.STAYS,
    "bad_words_ids": Rule.STAYS,
    "begin_suppress_tokens": Rule.STAYS,
    "block_types": Rule.STAYS,
    "eos_token_id": Rule.STAYS,
    "expert_layer_offset": Rule.STAYS,
    "id2label": Rule.STAYS,
    "label2id": Rule.STAYS,
    "mamba_d_ssm": Rule.STAYS,
    "mrope_section": Rule.STAYS,
    "num_mem_blocks": Rule.STAYS,
    "num_random_blocks": Rule.STAYS,
    "pad_token_id": Rule.STAYS,
    "quantization_config": Rule.STAYS,
    "rope_parameters": Rule.STAYS,
    "rope_scaling": Rule.STAYS,
    "suppress_tokens": Rule.STAYS,
    "time_step_limit": Rule.STAYS,
    "torch_dtype": Rule.STAYS,
    "vision_feature_layer": Rule.STAYS,
    "vocab_size_per_layer_input": Rule.STAYS,
}
"""Rules by field name. Sources: the config classes of transformers 5, and the config.json of remote-code models."""

LAYERISH = re.compile(r"(?:^|_)(?:layers?|blocks?|mtp|nextn)(?:_|$)")
"""A list, object or text of this name speaks of layers."""
NUMBERISH = re.compile(r"(?:^|_)(?:idxs?|indices|indexes)$")
"""A list of this name numbers something; of layers, when every number is below the depth."""
COUNTISH = re.compile(
    r"layers?$|(?:^|_)depth$|^(?:num|n)_.*(?:layers|blocks)|every_n|mtp|nextn"
    r"|layers?_.*(?:index|idx|interval|period|step|freq|offset|start|end)"
)
"""A whole number of this name counts, or names, layers."""
TOWER = re.compile(
    r"vision|visual|image|audio|speech|sound|codec|(?:^|_)vq|talker|2wav|backbone_config|qformer|resampler|perceiver|projector"
)
"""A nested config or a module of another modality: it keeps its own depth."""
AT_LEAST = {"deepstack_visual_indexes": "the first layers take in the vision tower's features"}
"""Lists, anywhere in the config, whose length is the fewest layers that can be kept."""
NEEDS_KIND = {"olmo_hybrid": "full_attention", "neomme": "full_attention"}
"""Model types whose config class refuses `layer_types` without this kind."""
NEEDS_LAST = dict.fromkeys(
    ("gemma4_text", "gemma4_unified_text", "diffusion_gemma_text", "embedding_gemma2_text"), "full_attention"
)
"""Model types whose config class turns the last layer into this kind, whatever its weights are."""
IMPLIED_PERIOD = {
    "afmoe": 4,
    "beam": 6,
    "cohere2": 4,
    "cohere2_moe": 4,
    "cwm": 4,
    "exaone4": 4,
    "exaone_moe": 4,
    "gemma2": 2,
    "gemma3_text": 6,
    "gpt_oss": 2,
    "granite_swa": 4,
    "granitemoe_swa": 4,
    "kolibri1": 5,
    "laguna": 4,
    "llama4_text": 4,
    "mimo_v2_flash": 6,
    "minicpm_ocr": 4,
    "modernbert": 3,
    "modernbert-decoder": 3,
    "muse_glimmer_text": 4,
    "muse_spark_text": 4,
    "olmo3": 4,
    "smollm3": 4,
    "step3p7_text": 4,
    "ultrabert": 3,
    "vaultgemma": 2,
}
"""Model types whose attention alternates by a period that their config.json need not say, and no tensor shows."""
ONLY_IF = {"max_window_layers": "use_sliding_window"}
"""Fields that tell layers apart only where another field beside them is true."""
NEVER = {"gpt_neox_japanese": "its last layer has a bias that the others lack"}
"""Model types whose first layers are no model of that type."""
TEXT_HOMES = (("text_config",), ("llm_config",), ("language_config",))
"""Where the text model's config is nested when other stacks are beside it."""
