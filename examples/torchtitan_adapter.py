"""An adapter to torchtitan's Llama 3: its state dict adapter and model, at https://github.com/pytorch/torchtitan

    uv venv titan && uv pip install --python titan/bin/python 'torchtitan==0.3.0' torch
    hub-tests run llama3-8b --subject examples/torchtitan_adapter.py:TorchtitanSubject --subject-python titan/bin/python

torchtitan converts when it loads a model, so there is nothing to convert beforehand: it reads the Hugging Face files.
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


class TorchtitanSubject:
    """torchtitan's Llama 3 behind hub-tests' protocol, with PyTorch's scaled dot product attention."""

    offer = SubjectOffer(
        name="torchtitan", package="torchtitan", formats=("llama",), variants=(), gradients=False, converts=False
    )

    def describe(self) -> Description:
        """Return torchtitan's version, its libraries and the formats."""
        versions = installed_versions(("torchtitan", "torch", "safetensors"))
        return Description("torchtitan", versions["torchtitan"], None, python_version(), versions, self.offer.formats)

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:  # noqa: ARG002
        """Return nothing: the other attentions need a GPU and packed documents."""
        return ()

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Refuse: the offer says that nothing is converted."""
        raise UnsupportedError(f"torchtitan: it reads {request.source} itself")

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run torchtitan's `Llama3Model` with hooks on its modules."""
        from hub_tests.torch_trace import ModelModules, trace_modules

        if request.variant:
            raise UnsupportedError(f"torchtitan: it has no variants here, {dict(request.variant)} was asked for")
        started = time.perf_counter()
        model, _ = load_model(Path(request.checkpoint), request.dtype)
        modules = ModelModules(
            embeddings=model.tok_embeddings,
            blocks=tuple(model.layers.values()),
            final_norm=model.norm,
            operations={"norm_1": "attention_norm", "mixer": "attention", "norm_2": "ffn_norm", "mlp": "feed_forward"},
            operation_inputs={"mixer.context": "attention.wo", "mixer_residual": "ffn_norm"},
        )
        model = model.to(request.device)
        return trace_modules(request, modules, model, ran={}, load_seconds=time.perf_counter() - started)

    def export(self, request: ExportRequest) -> ConvertResult:
        """Load a model, and write what its state dict adapter makes of it for Hugging Face."""
        import torch
        from safetensors.torch import save_file

        started, source, target = time.perf_counter(), Path(request.source), Path(request.target)
        model, adapter = load_model(source, request.dtype)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors*"))
        dtype = getattr(torch, request.dtype)
        state = {
            name: tensor.to(dtype).contiguous().clone() for name, tensor in adapter.to_hf(model.state_dict()).items()
        }
        save_file(state, target / "model.safetensors", {"format": "pt"})
        return list_written(target, started)

    def release(self) -> None:
        """Do nothing: no model is kept."""


def load_model(directory: Path, dtype: str) -> tuple[Any, Any]:
    """Load a Hugging Face directory through `Llama3StateDictAdapter.from_hf`; return the model and the adapter."""
    import torch
    from safetensors.torch import load_file
    from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter

    config = make_config(json.loads((directory / "config.json").read_bytes()))
    adapter = Llama3StateDictAdapter(config, None)
    tensors: dict[str, Any] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
    model = config.build()
    model.load_state_dict(adapter.from_hf(tensors))
    for parameter in model.parameters():  # not `model.to`, which would make RoPE's complex buffers real
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.eval(), adapter


def make_config(config: dict[str, Any]) -> Any:
    """Return torchtitan's config for a `config.json`. Raises UnsupportedError for what its Llama 3 cannot be."""
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
    from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock

    check_supported(config)
    dim, heads, vocabulary = config["hidden_size"], config["num_attention_heads"], config["vocab_size"]
    init: dict[str, Any] = {"wqkv_param_init": {}, "wo_param_init": {}}

    def norm() -> Any:
        return RMSNorm.Config(normalized_shape=dim, eps=config["rms_norm_eps"], param_init={})

    def layer() -> Any:
        rope = ComplexRoPE.Config(dim=dim // heads, max_seq_len=config["max_position_embeddings"], **make_rope(config))
        return Llama3TransformerBlock.Config(
            attention_norm=norm(),
            ffn_norm=norm(),
            attention=make_gqa_config(
                dim=dim,
                n_heads=heads,
                n_kv_heads=config.get("num_key_value_heads") or heads,
                inner_attention=ScaledDotProductAttention.Config(),
                rope=rope,
                **init,
            ),
            feed_forward=make_ffn_config(
                dim=dim, hidden_dim=config["intermediate_size"], w1_param_init={}, w2w3_param_init={}
            ),
        )

    return Llama3Model.Config(
        dim=dim,
        vocab_size=vocabulary,
        tok_embeddings=Embedding.Config(num_embeddings=vocabulary, embedding_dim=dim, param_init={}),
        norm=norm(),
        lm_head=Linear.Config(in_features=dim, out_features=vocabulary, param_init={}),
        layers=[layer() for _ in range(config["num_hidden_layers"])],
        enable_weight_tying=bool(config.get("tie_word_embeddings")),
    )


def check_supported(config: dict[str, Any]) -> None:
    """Raise UnsupportedError for a config that torchtitan's Llama 3 has no setting for."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    refused = {
        f"architectures {config.get('architectures')}": config.get("architectures") != ["LlamaForCausalLM"],
        f"head_dim {head_dim}": head_dim * config["num_attention_heads"] != config["hidden_size"],
        "attention_bias or mlp_bias": bool(config.get("attention_bias") or config.get("mlp_bias")),
        f"hidden_act {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
    }
    if wrong := next((what for what, is_refused in refused.items() if is_refused), None):
        raise UnsupportedError(f"torchtitan: its Llama 3 has no setting for {wrong}")


def make_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of torchtitan's RoPE; transformers takes 10,000 where `config.json` has no base."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"theta": theta}
    if kind != "llama3":
        raise UnsupportedError(f"torchtitan: its Llama 3 has no RoPE of type {kind!r}")
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {
        "theta": theta,
        "scaling": "llama",
        "scaling_factor": rope["factor"],
        **{name: rope[name] for name in names},
    }
