"""An adapter to LitGPT: its own weight converter and model, at https://github.com/Lightning-AI/litgpt

    uv venv litgpt && uv pip install --python litgpt/bin/python 'litgpt==0.5.13' requests
    hub-tests run smollm2 --subject examples/litgpt_adapter.py:LitGPTSubject --subject-python litgpt/bin/python

LitGPT finds a model's settings by its name in a table of its own; a part of a model has no name, so the settings are
made here from `config.json`, and put into that table under the name by which LitGPT chooses its converter.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from hub_tests.subject import (
    ConvertRequest,
    ConvertResult,
    Description,
    ExportRequest,
    SubjectOffer,
    TraceRequest,
    TraceResult,
    UnsupportedError,
    Variant,
    installed_versions,
    list_written,
    python_version,
)

NAMES = {"llama": "Llama-part", "mistral": "Mistral-part", "mixtral": "Mixtral-part", "qwen2": "Qwen2.5-part"}
"""A name for each format: its beginning decides which of LitGPT's converters runs."""
THETA = {"llama": 1e4, "mistral": 1e4, "mixtral": 1e6, "qwen2": 1e4}
"""What transformers takes for `rope_theta` where `config.json` has none."""


class LitGPTSubject:
    """LitGPT behind hub-tests' protocol."""

    offer = SubjectOffer(name="litgpt", package="litgpt", formats=tuple(NAMES), variants=(), gradients=False)

    def describe(self) -> Description:
        """Return LitGPT's version, its libraries and the formats."""
        versions = installed_versions(("litgpt", "torch", "safetensors"))
        return Description("litgpt", versions["litgpt"], None, python_version(), versions, self.offer.formats)

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:  # noqa: ARG002
        """Return nothing: LitGPT has one implementation of each part."""
        return ()

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Convert with `litgpt.scripts.convert_hf_checkpoint`."""
        from litgpt.config import name_to_config
        from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint

        started, source, target = time.perf_counter(), Path(request.source), Path(request.target)
        config = json.loads((source / "config.json").read_bytes())
        name = NAMES.get(request.checkpoint_format)
        if name is None or request.model_config != "gpt":
            raise UnsupportedError(
                f"litgpt: no adapter for {request.model_config} of format {request.checkpoint_format}"
            )
        name_to_config[name] = {"name": name, **make_settings(config)}
        shutil.copytree(source, target)
        convert_hf_checkpoint(checkpoint_dir=target, model_name=name)
        for path in target.glob("*.safetensors*"):
            path.unlink()
        return list_written(target, started)

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run LitGPT's `GPT` with hooks on its modules."""
        from hub_tests.torch_trace import ModelModules, trace_modules

        if request.variant:
            raise UnsupportedError(f"litgpt: it has no variants, {dict(request.variant)} was asked for")
        started = time.perf_counter()
        model = load_model(Path(request.checkpoint), request.dtype, request.device)
        modules = ModelModules(
            embeddings=model.transformer.wte,
            blocks=tuple(model.transformer.h),
            final_norm=model.transformer.ln_f,
            operations={"norm_1": "norm_1", "mixer": "attn", "norm_2": "norm_2", "mlp": "mlp"},
            operation_inputs={"mixer.context": "attn.proj", "mixer_residual": "norm_2"},
            router="mlp.gate" if model.config.n_expert else "",
            experts_per_token=model.config.n_expert_per_token,
        )
        return trace_modules(request, modules, model, ran={}, load_seconds=time.perf_counter() - started)

    def export(self, request: ExportRequest) -> ConvertResult:
        """Convert back with `litgpt.scripts.convert_lit_checkpoint`, and store its state dict as safetensors."""
        import torch
        from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint
        from safetensors.torch import save_file

        started, source, target = time.perf_counter(), Path(request.source), Path(request.target)
        ignored = shutil.ignore_patterns("lit_model.pth", "model_config.yaml")
        shutil.copytree(source, target, ignore=ignored)
        convert_lit_checkpoint(source, target)
        state = torch.load(target / "model.pth", weights_only=True)
        dtype = getattr(torch, request.dtype)
        config = json.loads((target / "config.json").read_bytes())
        if config.get("tie_word_embeddings"):
            state.pop("lm_head.weight", None)
        plain = {name: tensor.to(dtype).contiguous().clone() for name, tensor in state.items()}
        save_file(plain, target / "model.safetensors", {"format": "pt"})
        (target / "model.pth").unlink()
        return list_written(target, started)

    def release(self) -> None:
        """Do nothing: no model is kept."""


def load_model(checkpoint: Path, dtype: str, device: str) -> Any:
    """Load a converted checkpoint as LitGPT does: settings from its YAML file, weights from its state dict."""
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT

    model = GPT(Config.from_file(checkpoint / "model_config.yaml"))
    weights = torch.load(checkpoint / "lit_model.pth", mmap=True, weights_only=True)
    model.load_state_dict(weights.get("model", weights), assign=True)
    return model.to(dtype=getattr(torch, dtype), device=device).eval()


def make_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return LitGPT's settings for a `config.json`. Raises UnsupportedError for what LitGPT has no setting for."""
    kinds = {"LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM"}
    if not kinds & set(config.get("architectures") or ()):
        raise UnsupportedError(f"litgpt: no settings for {config.get('architectures')}")
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedError(f"litgpt: hidden_act {config['hidden_act']!r} has no setting, its LLaMAMLP is SiLU")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    heads, qwen = config["num_attention_heads"], config["model_type"] == "qwen2"
    experts = config.get("num_local_experts", 0)
    return {
        "block_size": config["max_position_embeddings"],
        "n_layer": config["num_hidden_layers"],
        "n_embd": config["hidden_size"],
        "vocab_size": config["vocab_size"],
        "padded_vocab_size": config["vocab_size"],
        "n_head": heads,
        "n_query_groups": config.get("num_key_value_heads") or heads,
        "head_size": config.get("head_dim") or config["hidden_size"] // heads,
        "rotary_percentage": 1.0,
        "parallel_residual": False,
        "bias": bool(config.get("attention_bias") or config.get("mlp_bias")),
        "attn_bias": qwen,
        "norm_class_name": "RMSNorm",
        "norm_eps": config["rms_norm_eps"],
        "mlp_class_name": "LLaMAMoE" if experts else "LLaMAMLP",
        "intermediate_size": config["intermediate_size"],
        "n_expert": experts,
        "n_expert_per_token": config.get("num_experts_per_tok", 0) if experts else 0,
        "rope_base": int(rope.get("rope_theta") or config.get("rope_theta") or THETA[config["model_type"]]),
        "rope_adjustments": _make_rope(rope),
        **_make_window(config),
    }


def _make_rope(rope: dict[str, Any]) -> dict[str, Any] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return {"factor": rope["factor"]}
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        return {
            **{name: rope[name] for name in names},
            "original_max_seq_len": rope["original_max_position_embeddings"],
        }
    raise UnsupportedError(f"litgpt: no adapter for RoPE of type {kind!r}")


def _make_window(config: dict[str, Any]) -> dict[str, Any]:
    window = config.get("sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return {}
    kinds = config.get("layer_types") or ["sliding_attention"] * config["num_hidden_layers"]
    return {"sliding_window_size": window, "sliding_window_indices": [int(k == "sliding_attention") for k in kinds]}
