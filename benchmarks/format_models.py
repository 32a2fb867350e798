"""A small model of each format that Fast-LLM converts: its config.json, and how its weights are written.

Structure as in the production models, sizes odd and small. Configs of formats whose code lies in Fast-LLM's checkout
are recipes of our own, in that code's keys, and not published files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.code_source import ModelCodeSource
from ci.subjects.hugging_face.worker import open_hugging_face
from tests.standin.models import build, repository, write_companions, write_json
from tests.standin.quantized import write_fp8
from tests.standin.recipes import DENSE, GEMMA4, GEMMA4_31B, LLAMA3, PIXTRAL, RECIPES, Recipe
from tests.standin.weights import Shapes, make_tensor, tensor_shapes, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.sandbox import Isolation

EXTERNAL = "fast_llm_external_models"
"""The directory of Fast-LLM's checkout with the modelling code of formats that transformers does not have."""
LAYERS = 4
FAST_LLM, OLDER = "fast_llm", "fast_llm-gemma4"
"""Fast-LLM's environments; the second one has transformers 5.14, for formats that fail with a later one."""
MLP = {"type": "mlp", "intermediate_size": 152, "activation": "silu", "gated": True, "add_linear_biases": False}
NORM = {"normalization": {"type": "rms_norm", "epsilon": 1e-5}}
ROTARY = {"type": "mistral_1d", "theta": 10000.0}
ATTENTION = {"type": "attention", "heads": 6, "head_groups": 3, "head_size": 16, "add_linear_biases": False}
CONVOLUTION = {"convolution_layer": {"kernel_size": 4}}
MIXERS = {
    "attention": {**ATTENTION, "rotary": ROTARY},
    "sliding_window": {**ATTENTION, "rotary": ROTARY, "window_size": 20},
    "gdn": {"type": "gdn", "value_heads": 6, "key_heads": 2, "key_head_dim": 8, "value_head_dim": 12, **CONVOLUTION},
    "kda": {"type": "kda", "heads": 3, "head_dim": 10, "normalization": {"epsilon": 1e-5}, **CONVOLUTION},
}
"""The four mixers of SuperApriel (arXiv 2604.19877)."""


def make_own_config(kind: str, architecture: str, auto_map: Mapping[str, str], **keys: Any) -> dict[str, Any]:
    """Return the keys that every config.json with code of its own has."""
    named = {"model_type": kind, "architectures": [architecture], "auto_map": dict(auto_map)}
    common = {"bos_token_id": 256, "eos_token_id": 257, "torch_dtype": "bfloat16", "transformers_version": "4.57.6"}
    return {**named, **common, **keys}


def make_auto_map(module: str, config: str, model: str, key: str = "AutoModelForCausalLM") -> dict[str, str]:
    """Return the `auto_map` of a config.json: the class of the config and that of the model."""
    return {"AutoConfig": f"configuration_{module}.{config}", key: f"modeling_{module}.{model}"}


LLAMA = {**DENSE, "num_hidden_layers": LAYERS, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
UNTIED = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
BLOCK = {"mixer": {"type": "stochastic", "main_mixer_name": "attention", "mixers": MIXERS}, "mlp": MLP, **NORM}
DECODER = {"decoder": {"type": "fixed", "num_blocks": LAYERS, "block": BLOCK}, "head": NORM}
SIZES = {"hidden_size": 96, "vocab_size": 331, "embeddings": {"max_position_embeddings": 512}}
VISION_ROTARY = {"type": "pixtral_2d", "theta": 10000.0, "patch_size": 4, "max_image_size": 64}
VISION_ATTENTION = {**ATTENTION, "heads": 5, "head_groups": 5, "head_size": 12, "causal": False}
VISION_BLOCK = {
    "mixer": {**VISION_ATTENTION, "cross_document_attention": False, "rotary": VISION_ROTARY},
    "mlp": {**MLP, "intermediate_size": 88},
    **NORM,
}
VISION: dict[str, Any] = {
    "hidden_size": 60,
    "embeddings": {"patch_height": 4, "patch_width": 4, "input_channels": 3, **NORM},
    "encoder": {"type": "fixed", "num_blocks": 2, "block": VISION_BLOCK},
    "num_hidden_layers": 2,
    "patch_size": 4,
    "num_channels": 3,
    "adapter": {
        "type": "mlp",
        "intermediate_size": 96,
        "activation": "gelu_pytorch_tanh",
        "gated": False,
        "add_linear_biases": True,
    },
}
"""What Fast-LLM writes for the tower of a llava model when it exports that as apriel2."""
GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 60,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 12,
    "patch_size": 4,
    "pooling_kernel_size": 2,
    "position_embedding_size": 64,
}
LAYOUT = ["t", "m2", "t", "m2"]
"""The blocks of Apriel-H1: attention, and Mamba-2 between."""
SSM: dict[str, Any] = {"d_state": 8, "d_inner": 144, "d_xb": 48, "dt_rank": 7, "d_conv": 4, "expand": 1, "bias": False}
SSM |= {"conv_bias": True, "dt_proj_bias": True, "repeat_kv_before_conv": True}
SSM |= {"dt_min": 0.001, "dt_max": 0.1, "dt_init": "random", "dt_scale": 1.0, "dt_init_floor": 0.0001}
SSM |= {"n_v_heads": 32, "n_qk_heads": 32, "chunk_size": 128, "activation": "identity"}
"""Every key that the config's class writes; those of the last line are of another kind of block."""
APRIEL = {**LLAMA, "hybrid_block_layout": LAYOUT, "ssm_cfg": SSM, "sliding_window": None, "tie_word_embeddings": False}

APRIEL2_TEXT_MAP = make_auto_map("apriel2", "Apriel2TextConfig", "Apriel2ForCausalLM")
APRIEL2_MAP = {
    **make_auto_map("apriel2", "Apriel2Config", "Apriel2ForConditionalGeneration"),
    "AutoModelForImageTextToText": "modeling_apriel2.Apriel2ForConditionalGeneration",
}


@dataclass(frozen=True)
class FormatModel:
    """One model of a format, with its entry of the registry.

    `recipe` names one of the stand-in's, or is one; else `config` is config.json, and the weights are drawn by
    transformers, or by the modelling code at `code_path` in the environment `code_environment`, or, where that code
    builds nothing on a CPU, by name. With `carries_code` the repository has that code's files beside the weights, with
    `fp8_block` its linear layers are float8 codes with a scale for each such block.
    """

    name: str
    checkpoint_format: str
    recipe: str | Recipe = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    code_environment: str = ""
    code_path: str = ""
    model_config: str = "gpt"
    environment: str = FAST_LLM
    gated: bool = False
    by_name: bool = False
    carries_code: bool = False
    fp8_block: tuple[int, int] | None = None

    @property
    def model_id(self) -> str:
        """The id under which the stand-in Hub serves it."""
        return (self.recipe if isinstance(self.recipe, str) else "") or f"stand-in/{self.name}"

    def make_entry(self, commit: str) -> str:
        """Return the entry of models.toml; `commit` is that of the repository."""
        keys: dict[str, Any] = {"model_id": self.model_id, "checkpoint_format": self.checkpoint_format}
        keys |= {"model_config": self.model_config, "num_layers_to_keep": 2, "groups": ["formats"]}
        if self.code_environment:
            code = {"code_revision": commit} if self.carries_code else {"code_path": self.code_path}
            keys |= {"trust_remote_code": True, "code_environment": self.code_environment, **code}
        if self.environment != FAST_LLM:
            keys["environments"] = [{"subject": "fast_llm", "environment": self.environment}]
        if self.fp8_block:
            keys["dequantize"] = "fp8-blocks"
        factor = 2.0 if self.checkpoint_format == "mixtral" else 1.0
        params = {"batch_size": 2, "sequence_length": 64, "compare_factor": factor}
        tables = [
            f"[[{self.name}.environments]]\n" + "\n".join(_list_pairs(own)) for own in keys.pop("environments", ())
        ]
        lines = [f"[{self.name}]", *_list_pairs(keys), f"[{self.name}.test_params]", *_list_pairs(params), *tables]
        return "\n".join(lines) + "\n"


def _list_pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def make_external(
    checkpoint_format: str, folder: str, code_environment: str, config: Mapping[str, Any], name: str = "", **keys: Any
) -> FormatModel:
    """Return a model whose modelling code lies in Fast-LLM's checkout, called after its format unless named."""
    keys |= {"config": config, "code_environment": code_environment, "code_path": f"{EXTERNAL}/{folder}"}
    return FormatModel(name or checkpoint_format, checkpoint_format, **keys)


DREAM = make_own_config(
    "Dream",
    "DreamModel",
    make_auto_map("dream", "DreamConfig", "DreamModel", "AutoModel"),
    **{**LLAMA, "tie_word_embeddings": False, "mask_token_id": 300, "pad_token_id": 258},
    use_sliding_window=False,
    sliding_window=None,
    max_window_layers=4,
    rope_scaling=None,
)


def make_plain(name: str, checkpoint_format: str, upstream: str, **changes: Any) -> FormatModel:
    """Return a model with the sizes of the stand-in's and what a published one has beside them."""
    return FormatModel(name, checkpoint_format, Recipe(f"stand-in/{name}", upstream, {**DENSE, **changes}, files=1))


MODELS = (
    FormatModel("llama", "llama", "meta-llama/Llama-3.1-8B", gated=True),
    make_plain(
        *("llama-3-2", "llama", "Llama-3.1-8B"),
        rope_scaling={**LLAMA3, "factor": 32.0},
        tie_word_embeddings=True,
        head_dim=16,
    ),
    make_plain("smollm2", "llama", "SmolLM2-135M-Instruct"),
    FormatModel("mistral", "mistral", "mistralai/Mistral-7B-v0.1"),
    make_plain("mistral-nemo", "mistral", "Mistral-7B-v0.3", head_dim=20),
    FormatModel("mixtral", "mixtral", "stand-in/mixtral-head-dim"),
    FormatModel("mixtral-published", "mixtral", "mistralai/Mixtral-8x7B-v0.1"),
    FormatModel("qwen2", "qwen2", "Qwen/Qwen2.5-0.5B"),
    make_plain(
        "qwen2-windows", "qwen2", "Qwen2.5-0.5B", use_sliding_window=True, sliding_window=20, max_window_layers=1
    ),
    FormatModel("gemma4-experts", "gemma4", "stand-in/gemma4-experts", environment=OLDER),
    FormatModel("gemma4-dense", "gemma4", "stand-in/gemma4-dense", environment=OLDER),
    FormatModel(
        *("gemma4-31b", "gemma4", Recipe("stand-in/gemma4-31b", "gemma-4-26B-A4B", {**GEMMA4, **GEMMA4_31B})),
        environment=OLDER,
    ),
    FormatModel(
        "gemma4-published",
        "gemma4",
        config={
            "model_type": "gemma4",
            "architectures": ["Gemma4ForConditionalGeneration"],
            "text_config": RECIPES["stand-in/gemma4-experts"].config | {"architectures": None},
            "vision_config": GEMMA4_VISION,
            "image_token_id": 10,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "transformers_version": "5.14.1",
        },
        environment=OLDER,
    ),
    FormatModel("llava", "llava", "stand-in/llava", model_config="multimodal"),
    make_external(
        "mtp_llama",
        "mtp_llama",
        "hf-5-14",
        make_own_config(
            "mtp_llama",
            "MTPLlamaForCausalLM",
            make_auto_map("mtp_llama", "MTPLlamaConfig", "MTPLlamaForCausalLM"),
            **{**LLAMA, **UNTIED, "prediction_heads": 3, "rope_scaling": None},
        ),
        environment=OLDER,
    ),
    make_external("dream", "diffusion_dream", "hf-4-57", DREAM),
    FormatModel(
        "dream-carried",
        "dream",
        config=DREAM,
        code_environment="hf-4-57",
        code_path=f"{EXTERNAL}/diffusion_dream",
        carries_code=True,
    ),
    make_external(
        "diffusion_llama",
        "diffusion_llama",
        "hf-4-57",
        make_own_config(
            "diffusion_llama",
            "DiffusionLlamaModel",
            make_auto_map("diffusion_llama", "DiffusionLlamaConfig", "DiffusionLlamaModel", "AutoModel"),
            **{**LLAMA, **UNTIED, "mask_token_id": 300, "rope_scaling": None},
        ),
    ),
    make_external(
        "apriel_hybrid_ssm",
        "apriel_hybrid_ssm",
        "hf-4-57",
        make_own_config(
            "apriel_hybrid_ssm",
            "AprielHybridSSMForCausalLM",
            make_auto_map("apriel_hybrid_ssm", "AprielHybridSSMConfig", "AprielHybridSSMForCausalLM"),
            **APRIEL,
        ),
        by_name=True,
    ),
    make_external(
        "llava_hybrid_ssm",
        "llava_hybrid",
        "hf-4-57",
        make_own_config(
            "llava_hybrid",
            "LlavaHybridForConditionalGeneration",
            make_auto_map("llava_hybrid", "LlavaHybridConfig", "LlavaHybridForConditionalGeneration"),
            **{**PIXTRAL, "text_config": {**APRIEL, "model_type": "apriel_ssm_thinker_hybrid"}},
            projector_hidden_act="gelu",
            multimodal_projector_bias=True,
            image_seq_length=1,
            tie_word_embeddings=False,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
        by_name=True,
        model_config="multimodal",
    ),
    make_external(
        "apriel2_text",
        "apriel2",
        "hf-5-14",
        make_own_config(
            "apriel2_text", "Apriel2ForCausalLM", APRIEL2_TEXT_MAP, **{**SIZES, **DECODER, "tie_word_embeddings": False}
        ),
    ),
    make_external(
        "apriel2",
        "apriel2",
        "hf-5-14",
        make_own_config(
            "apriel2",
            "Apriel2ForConditionalGeneration",
            APRIEL2_MAP,
            **{**SIZES, **DECODER, "vision_encoder": VISION, "image_token_index": 10, "tie_word_embeddings": False},
        ),
        model_config="multimodal",
    ),
)
"""Each of Fast-LLM's thirteen formats, and what published models of the plain ones have beside the usual."""


def make_apriel2_text(name: str, mixer: Mapping[str, Any], **keys: Any) -> FormatModel:
    """Return a model of apriel2_text with one kind of mixer in each block."""
    decoder = {"type": "fixed", "num_blocks": LAYERS, "block": {"mixer": mixer, "mlp": MLP, **NORM}}
    sizes = {**SIZES, "decoder": decoder, "head": NORM, "tie_word_embeddings": False, **keys}
    config = make_own_config("apriel2_text", "Apriel2ForCausalLM", APRIEL2_TEXT_MAP, **sizes)
    path = f"{EXTERNAL}/apriel2"
    return FormatModel(name, "apriel2_text", config=config, code_environment="hf-5-14", code_path=path)


def make_apriel2(name: str, vision: Mapping[str, Any], **keys: Any) -> FormatModel:
    """Return a model of apriel2 with attention in each block, and this vision encoder."""
    block = {"mixer": MIXERS["attention"], "mlp": MLP, **NORM}
    sizes = {**SIZES, "decoder": {"type": "fixed", "num_blocks": LAYERS, "block": block}, "head": NORM, **keys}
    sizes |= {"vision_encoder": dict(vision), "image_token_index": 10, "tie_word_embeddings": False}
    config = make_own_config("apriel2", "Apriel2ForConditionalGeneration", APRIEL2_MAP, **sizes)
    return make_external("apriel2", "apriel2", "hf-5-14", config, model_config="multimodal", name=name)


def change_convolution(mixer: str, activation: str) -> dict[str, Any]:
    """Return a recurrent mixer whose convolution has another activation than silu."""
    return {**MIXERS[mixer], "convolution_layer": {"kernel_size": 4, "activation": activation}}


LARGE_EPSILON = {"normalization": {"type": "rms_norm", "epsilon": 0.03}}
LLAMA3_ROTARY = {
    "type": "llama3",
    "theta": 10000.0,
    "scale_factor": 8.0,
    "low_frequency_factor": 1.0,
    "high_frequency_factor": 4.0,
    "original_context_length": 48,
}
PROBES = (
    FormatModel("llama-fp8", "llama", Recipe("stand-in/llama-fp8", "Llama-3.1-8B", DENSE, files=3), fp8_block=(25, 41)),
    FormatModel(
        "llava-tanh",
        "llava",
        Recipe("stand-in/llava-tanh", "pixtral-12b", {**PIXTRAL, "projector_hidden_act": "gelu_pytorch_tanh"}, files=1),
        model_config="multimodal",
    ),
    make_apriel2_text("apriel2-attention", MIXERS["attention"]),
    make_apriel2_text(
        "apriel2-kda-sigmoid", {**MIXERS["kda"], "normalization": {"epsilon": 1e-5, "activation": "sigmoid"}}
    ),
    make_apriel2_text("apriel2-kda-convolution", change_convolution("kda", "identity")),
    make_apriel2_text("apriel2-llama3-rope", {**ATTENTION, "rotary": LLAMA3_ROTARY}),
    make_apriel2("apriel2-images", VISION),
    make_apriel2("apriel2-tower-epsilon", {**VISION, "embeddings": {**VISION["embeddings"], **LARGE_EPSILON}}),
    make_apriel2(
        "apriel2-blocks-epsilon",
        {**VISION, "encoder": {"type": "fixed", "num_blocks": 2, "block": {**VISION_BLOCK, **LARGE_EPSILON}}},
    ),
)
"""Structures that a config may ask for and no published model is known to: run where they are named only."""


def write_model(model: FormatModel, folder: Path, checkout: Path, isolation: Isolation, python: Path | None) -> Path:
    """Write the model's repository below `folder` and return it.

    `python` is the interpreter of its `code_environment`, in whose sandbox the modelling code draws the weights.
    """
    if isinstance(model.recipe, Recipe):
        built = build(model.recipe, folder / model.name)
        return write_fp8(built, folder / f"{model.name}-codes", model.fp8_block) if model.fp8_block else built
    if model.recipe:
        return repository(model.recipe)
    config, target = dict(model.config), folder / model.name
    if model.by_name:
        target.mkdir(parents=True)
        shapes = make_hybrid_shapes(config)
        read = partial(_make_named, shapes)
        write_checkpoint(target, shapes, read, dtype="bfloat16", shard_bytes=10**9)
        write_json(target / "config.json", config)
    else:
        source = folder / f"{model.name}-config"
        source.mkdir(parents=True)
        write_json(source / "config.json", config)
        if python is None:
            with HuggingFace() as own:
                own.write_model(str(source), str(target), "bfloat16", 0)
        else:
            code = ModelCodeSource(checkout / model.code_path, "the checkout")
            with open_hugging_face(python, code, isolation) as side:
                side.write_model(str(source), str(target), "bfloat16", 0)
    write_companions(target, model.model_id, config)
    for file in (checkout / model.code_path).glob("*.py") if model.carries_code else ():
        shutil.copyfile(file, target / file.name)
    return target


def make_hybrid_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the shapes of a model with Mamba-2 blocks among attention, by Fast-LLM's names."""
    text = {"model_type": "mistral", **(config.get("text_config") or config), "tie_word_embeddings": False}
    plain = {**text, "model_type": "mistral"}
    shapes = tensor_shapes({**config, "text_config": plain} if "text_config" in config else plain)
    prefix = "language_model.model.layers" if "text_config" in config else "model.layers"
    for layer, kind in enumerate(text["hybrid_block_layout"]):
        if kind == "m2":
            attention = f"{prefix}.{layer}.self_attn."
            shapes = {name: shape for name, shape in shapes.items() if not name.startswith(attention)}
            mamba = _list_mamba_shapes(text["hidden_size"], text["ssm_cfg"])
            shapes |= {f"{prefix}.{layer}.mixer.{name}": shape for name, shape in mamba.items()}
    return shapes


def _list_mamba_shapes(hidden: int, ssm: Mapping[str, Any]) -> Shapes:
    inner, narrow, rank = ssm["d_inner"], ssm["d_xb"], ssm["dt_rank"]
    return {
        "A_log": (inner, ssm["d_state"]),
        "D": (inner,),
        "conv1d.weight": (inner, 1, ssm["d_conv"]),
        "conv1d.bias": (inner,),
        "in_proj.weight": (2 * narrow + 2 * inner, hidden),
        "dt_in_proj.weight": (rank, hidden),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "out_proj.weight": (hidden, inner),
    }


def _make_named(shapes: Shapes, name: str) -> Any:
    return make_tensor(name, shapes[name], 0)
