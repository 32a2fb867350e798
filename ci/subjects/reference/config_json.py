"""Reads config.json of a Hugging Face checkpoint as an Architecture.

Missing keys have the defaults of transformers' configuration classes, which are the same in its versions 4 and 5; rope
keys are read in the style of either version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from ci.errors import UnsupportedError
from ci.subjects.reference.config import Activation, Architecture, Attention, Block, Mlp
from ci.subjects.reference.config_json_rope import read_rope
from ci.subjects.reference.config_section import ConfigSection

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ModelFamily:
    """A Hugging Face architecture: its names, and its defaults of missing keys.

    `own_biases`: it has the keys attention_bias and mlp_bias; `kv_heads` None: as many as heads. `windows`: no layer
    has a window, every one has the same, or some are chosen. `prediction_heads`: it has this key. `other_type`: how
    published files write model_type too.
    """

    name: str
    architecture: str
    epsilon: float = 1e-6
    theta: float = 10_000.0
    kv_heads: int | None = None
    window: int | None = None
    own_biases: bool = False
    qkv_bias: bool = False
    experts: bool = False
    windows: Literal["none", "all", "chosen"] = "all"
    causal: bool = True
    prediction_heads: bool = False
    other_type: str = ""


FAMILIES: Final = {
    family.name: family
    for family in (
        ModelFamily("llama", "LlamaForCausalLM", own_biases=True, windows="none"),
        ModelFamily("mistral", "MistralForCausalLM", kv_heads=8, window=4096),
        ModelFamily("mixtral", "MixtralForCausalLM", epsilon=1e-5, theta=1e6, kv_heads=8, experts=True),
        ModelFamily("qwen2", "Qwen2ForCausalLM", kv_heads=32, window=4096, qkv_bias=True, windows="chosen"),
        ModelFamily("mtp_llama", "MTPLlamaForCausalLM", own_biases=True, windows="none", prediction_heads=True),
        ModelFamily("apriel_hybrid_ssm", "AprielHybridSSMForCausalLM", kv_heads=8, window=4096),
        ModelFamily("diffusion_llama", "DiffusionLlamaModel", own_biases=True, windows="none", causal=False),
        ModelFamily(
            *("dream", "DreamModel"),
            kv_heads=32,
            window=4096,
            qkv_bias=True,
            windows="chosen",
            causal=False,
            other_type="Dream",
        ),
    )
}

ACTIVATIONS: Final[Mapping[str, Activation]] = {"silu": "silu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}

SLIDING: Final = "sliding_attention"
FULL: Final = "full_attention"
DTYPE_KEYS: Final = ("dtype", "torch_dtype")

IGNORED_KEYS: Final = (
    # Tokens and generation: they change which tokens are fed, not the logits of a token.
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "mask_token_id", "decoder_start_token_id"),
    *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
    *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
    *("forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
    *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "prefix", "remove_invalid_values"),
    *("repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p"),
    *("typical_p", "use_cache", "task_specific_params", "tokenizer_class"),
    # What is returned beside the logits, and labels of other heads.
    *("return_dict", "output_attentions", "output_hidden_states", "output_router_logits", "problem_type"),
    *("finetuning_task", "id2label", "label2id", "num_labels"),
    # Training: initialization, dropout and router losses have no effect in evaluation.
    *("initializer_range", "attention_dropout", "router_aux_loss_coef", "router_jitter_noise"),
    # Provenance, storage and which kernels to use.
    *("_name_or_path", "name_or_path", "transformers_version", "auto_map", "transformers.js_config"),
    *("torchscript", "is_llama_config", "_attn_implementation", "attn_implementation", *DTYPE_KEYS),
    *("_attn_implementation_autoset", "tf_legacy_loss", "use_bfloat16"),
    # A limit on the length; RoPE scaling, which may fall back on it, reads it earlier.
    "max_position_embeddings",
)

NEUTRAL_VALUES: Final[Mapping[str, tuple[object, ...]]] = {
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1.0, None),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
}
"""Keys that common models have with a value of no effect; any other value is refused by name."""


def find_family(checkpoint_format: str) -> ModelFamily:
    """Return the family of a checkpoint format. Raises UnsupportedError for an unknown one."""
    if checkpoint_format not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnsupportedError(
            f"checkpoint format {checkpoint_format!r} is not implemented by the reference; it has {known}"
        )
    return FAMILIES[checkpoint_format]


def read_config(config: Mapping[str, Any], checkpoint_format: str, *, where: str = "config.json") -> Architecture:
    """Read a config.json. Raises SubjectError for a malformed file, UnsupportedError for an unknown feature."""
    family, section = find_family(checkpoint_format), ConfigSection(where, config)
    _check_names(section, family)
    layers = section.take_positive("num_hidden_layers")
    hidden, heads = section.take_positive("hidden_size"), section.take_positive("num_attention_heads")
    epsilon = section.take("rms_norm_eps", float, family.epsilon)
    attention, mlp = _read_attention(section, family, hidden, heads), _read_mlp(section, family)
    windows = _read_windows(section, family, layers)
    architecture = Architecture(
        vocabulary=section.take_positive("vocab_size"),
        hidden=hidden,
        blocks=tuple(Block(replace(attention, window=window), mlp, epsilon) for window in windows),
        epsilon=epsilon,
        tied=section.take("tie_word_embeddings", bool, False),
        prediction_heads=section.take_positive("prediction_heads", 1) if family.prediction_heads else 1,
    )
    section.finish_known(NEUTRAL_VALUES, IGNORED_KEYS)
    return architecture


def _check_names(section: ConfigSection, family: ModelFamily) -> None:
    model_type = section.take("model_type", str)
    if model_type not in (family.name, family.other_type):
        raise UnsupportedError(f"{section.where}: model_type {model_type!r} is not of the format {family.name!r}")
    section.allow("architectures", [family.architecture], None)


def _read_attention(section: ConfigSection, family: ModelFamily, hidden: int, heads: int) -> Attention:
    """Read the attention that all layers share, without the window, which differs between layers."""
    kv_heads = section.take_optional_positive("num_key_value_heads", family.kv_heads) or heads
    if heads % kv_heads:
        raise UnsupportedError(
            f"{section.where}: {heads} attention heads do not divide into {kv_heads} key-value heads"
        )
    head_dim = section.take_optional_positive("head_dim") or hidden // heads
    if head_dim % 2 or not head_dim:
        raise UnsupportedError(f"{section.where}: head_dim {head_dim} is odd, but RoPE needs pairs")
    bias = section.take("attention_bias", bool, False) if family.own_biases else False
    rope = read_rope(section, family.theta)
    return Attention(heads, kv_heads, head_dim, None, family.qkv_bias or bias, bias, rope, causal=family.causal)


def _read_mlp(section: ConfigSection, family: ModelFamily) -> Mlp:
    intermediate = section.take_positive("intermediate_size")
    bias = section.take("mlp_bias", bool, False) if family.own_biases else False
    name = section.take("hidden_act", str, "silu")
    if name not in ACTIVATIONS:
        raise section.refusal("hidden_act", name)
    if not family.experts:
        return Mlp(intermediate, bias, ACTIVATIONS[name])
    experts, per_token = section.take_positive("num_local_experts", 8), section.take_positive("num_experts_per_tok", 2)
    if experts < 2 or per_token > experts:
        raise section.refusal("num_experts_per_tok", f"{per_token} of {experts} experts")
    return Mlp(intermediate, bias, ACTIVATIONS[name], experts, per_token)


def _read_windows(section: ConfigSection, family: ModelFamily, layers: int) -> tuple[int | None, ...]:
    """Read each layer's sliding window: Qwen2 has it from `max_window_layers` on, or by `layer_types`."""
    window, first = None, 0
    if family.windows == "none":
        section.allow("sliding_window", None)
    else:
        window = section.take_optional_positive("sliding_window", family.window)
    if family.windows == "chosen":
        window = window if section.take("use_sliding_window", bool, False) else None
        if window is not None and not family.causal:
            raise section.refusal("use_sliding_window", True)
        first = section.take("max_window_layers", int, 28)
    counted = [window is not None and layer >= first for layer in range(layers)]
    kinds = section.take_optional("layer_types", list)
    sliding = counted if kinds is None else [kind == SLIDING for kind in kinds]
    if kinds is not None and not _can_use_layer_types(kinds, sliding, counted, family, window):
        raise section.refusal("layer_types", kinds)
    return tuple(window if slides else None for slides in sliding)


def _can_use_layer_types(
    kinds: list[Any], sliding: list[bool], counted: list[bool], family: ModelFamily, window: int | None
) -> bool:
    """Return whether `layer_types` can be used: transformers reads them for each layer in Qwen2 only."""
    if len(kinds) != len(counted) or not {*kinds} <= {SLIDING, FULL}:
        return False
    return window is not None or not any(sliding) if family.windows == "chosen" else sliding == counted
