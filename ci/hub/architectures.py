"""What the fields of config.json do not say about an architecture: one frozen record for each model type.

Tensors outside the layers, of multi-token prediction (MTP) above all, are dropped or kept by these records alone. Names
that look like MTP in a model type without a record are an error (`ci.hub.layers`): one norm of `mtp_llama` is the final
norm of the main model, and no name shows that. Each record names its source: `tf:` is a path below
`transformers/models/` of transformers 5.24, `fl:` one of Fast-LLM's `fast_llm_external_models/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class PerLayerItems:
    """Lists inside of layers with one item for each layer that a field of config.json names.

    `list_name` is the end of the list's name in the tensors' names, `field` holds the indices of the layers.
    """

    list_name: str
    field: str


@dataclass(frozen=True)
class Architecture:
    """Facts about a model type.

    `mtp`: a regular expression of the names of tensors that are multi-token prediction alone: they are dropped.
    `kept_mtp`: names that look like it and are needed: they stay. `period`: every how many layers attention differs
    where neither config.json nor the tensors show it. `required_kind`: the config class refuses `layer_types` without
    this kind; `required_last_kind`: it changes the last layer to this kind, whatever the weights are. `items`: lists
    inside of layers that follow the layers. `lists`: the ends of the lists' names where a layer is spread over several
    lists, with one module a layer each. `shares_layers`: later layers use the weights of earlier ones, so that only
    the first N layers can be kept. `refusal`: why the first layers alone are no valid model of the type, if
    `refused_field`, where there is one, is set.
    """

    mtp: str = ""
    kept_mtp: str = ""
    period: int = 0
    required_kind: str = ""
    required_last_kind: str = ""
    items: PerLayerItems | None = None
    lists: tuple[str, ...] = ()
    shares_layers: bool = False
    refusal: str = ""
    refused_field: str = ""


UNKNOWN = Architecture()
"""A model type without a record: nothing is beside its layers but embeddings, norms, a head and other modalities."""

_PERIODS = {
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
"""`Architecture.period` of model types. tf:<type>/configuration_<type>.py, where `layer_types` is None."""

_MTP: dict[str, str] = {
    # `_keys_to_ignore_on_load_unexpected` of tf:<type>/modeling_<type>.py
    "deepseek_v4": r"(^|\.)mtp\.",
    "ernie4_5_moe": r"(^|\.)mtp",
    "exaone4_5": r"^mtp",
    "exaone4_5_text": r"^mtp",
    "exaone_moe": r"^mtp",
    "granite_docling": r"^mtp\.",
    "hy_v4": r"^model\.mtp_layers\.",
    "hy_v4_vl": r"^model\.mtp_layers\.",
    "inkling": r"^model\.mtp\.",
    "inkling_text": r"^model\.mtp\.",
    "longcat_flash": r"^model\.mtp",
    "mellum": r"^mtp\.",
    "mimo_v2_flash": r"^model\.mtp\.",
    "minimax_m3_vl": r"(^|\.)mtp\.",
    "minimax_m3_vl_text": r"(^|\.)mtp\.",
    "mistral_large4": r"(^|\.)mtp_dspark\.",
    "nemotron3_5_transcribe": r"^llm\.mtp\.",
    "nemotron_h": r"^mtp",
    "olmo_hybrid": r"^mtp",
    "qwen3_5": r"^mtp",
    "qwen3_5_moe": r"^mtp",
    "qwen3_5_moe_text": r"^mtp",
    "qwen3_5_text": r"^mtp",
    "qwen3_next": r"^mtp",
    "qwen4_exp": r"^mtp",
    "qwen4_exp_text": r"^mtp",
    # github.com/XiaomiMiMo/MiMo, registry/: `mtp_layers` beside the decoder's `layers`
    "mimo": r"^model\.mtp_layers\.",
    # modeling_minimax_m2.py of the model's repository: modules beside the decoder
    "minimax_m2": r"(^|\.)mtp\.",
}
"""`Architecture.mtp` of model types."""

_OTHERS: dict[str, Architecture] = {
    # tf:gpt_neox_japanese/modeling_gpt_neox_japanese.py: `use_bias=i == config.num_hidden_layers - 1`
    "gpt_neox_japanese": Architecture(refusal="its last layer has a bias that the others lack"),
    # tf:<type>/configuration_<type>.py: `validate_layer_type`
    "neomme": Architecture(required_kind="full_attention"),
    "olmo_hybrid": Architecture(required_kind="full_attention"),
    # tf:<type>/configuration_<type>.py, `__post_init__`: `layer_types[-1] = "full_attention"`
    "diffusion_gemma_text": Architecture(required_last_kind="full_attention"),
    "embedding_gemma2_text": Architecture(required_last_kind="full_attention"),
    "gemma4_text": Architecture(required_last_kind="full_attention"),
    "gemma4_unified_text": Architecture(required_last_kind="full_attention"),
    # fl:mtp_llama/modeling_mtp_llama.py: `mtp_norms[0]` is the final norm of the main head, which runs the last of
    # `layers`; the further heads `mtp_heads` follow that layer, whichever it is, so all of them stay.
    "mtp_llama": Architecture(kept_mtp=r"^model\.mtp_(heads|norms)\.\d+\."),
    # tf:nemo_speechlm: the config counts the layers of the speech encoder
    "nemo_speechlm": Architecture(refusal="config.json counts the layers of its speech encoder"),
    # tf:xlm/modeling_xlm.py, `XLMModel`: layer i is attentions[i], layer_norm1[i], ffns[i], layer_norm2[i]
    "xlm": Architecture(lists=("attentions", "ffns", "layer_norm1", "layer_norm2")),
    # tf:zamba2/modeling_zamba2.py, `Zamba2HybridLayer`: each use of a shared block has adapters of its own, numbered
    # by the uses; tensors of a block are stored with its first use.
    "zamba2": Architecture(items=PerLayerItems("adapter_list", "hybrid_layer_ids"), shares_layers=True),
    # tf:zamba/modeling_zamba.py: one shared block, stored with its first use
    "zamba": Architecture(shares_layers=True),
}


def _collect() -> Mapping[str, Architecture]:
    records = dict(_OTHERS)
    for model_type, period in _PERIODS.items():
        records[model_type] = replace(records.get(model_type, UNKNOWN), period=period)
    for model_type, pattern in _MTP.items():
        records[model_type] = replace(records.get(model_type, UNKNOWN), mtp=pattern)
    return records


ARCHITECTURES: Mapping[str, Architecture] = _collect()
"""Records by `model_type`, of the whole config or of its text part."""


def find_architecture(*model_types: object) -> Architecture:
    """Return the record of the first of these model types that has one."""
    return next(
        (ARCHITECTURES[name] for name in model_types if isinstance(name, str) and name in ARCHITECTURES), UNKNOWN
    )
