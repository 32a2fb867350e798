"""What a Fast-LLM checkpoint's configuration says, and the implementations that can be chosen in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.errors import RequestError, UnsupportedError
from ci.subjects.base import TraceRequest, Variant
from ci.subjects.provenance import libraries

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION = ("backup", "sdpa_dense", "sdpa_nested", "flash")
CUDA_ONLY = ("sdpa_nested", "flash")
MOE = ("looped", "dropless")
COMPILE = ("eager", "inductor")
CHOICES = {"attention": ATTENTION, "moe": MOE, "compile": COMPILE}
LOW_PRECISION = ("bfloat16", "float16")

Blocks = list[tuple[tuple[str, ...], Any]]


def model_class(name: str) -> Any:
    """Fast-LLM's configuration class of a model type such as "gpt"; raises UnsupportedError."""
    import fast_llm.models.auto  # noqa: F401 (registers the model classes)
    from fast_llm.engine.multi_stage.config import FastLLMModelConfig

    try:
        return FastLLMModelConfig.get_subclass(name)
    except KeyError:
        raise UnsupportedError(f"Fast-LLM has no model class {name!r}") from None


def format_of(model: Any, name: str) -> Any:
    """The checkpoint format `name` of a configuration class; raises UnsupportedError with those there are."""
    found = {format_.name: format_ for format_ in model.checkpoint_formats}
    if name not in found:
        raise UnsupportedError(f"Fast-LLM does not convert the format {name!r}; it knows {', '.join(sorted(found))}")
    return found[name]


def config_of(checkpoint: Path) -> Any:
    """The model configuration of a Fast-LLM checkpoint; its class is named in `metadata.yaml`."""
    import yaml
    from fast_llm.engine.checkpoint.config import CheckpointLoadMetadataConfig, FastLLMCheckpointFormat

    try:
        model = yaml.safe_load((checkpoint / "metadata.yaml").read_text(encoding="utf-8"))["model"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as problem:
        raise RequestError(f"{checkpoint} is no Fast-LLM checkpoint: metadata.yaml: {problem}") from None
    load = CheckpointLoadMetadataConfig(path=checkpoint, format=FastLLMCheckpointFormat)
    return model_class(model).from_pretrained(load)


def variants_of(config: Any) -> tuple[Variant, ...]:
    """MoE and attention implementations; the default is what `auto` means here for float32."""
    blocks = _blocks(config)
    found = [Variant("attention", name, needs=_attention_needs(name, blocks)) for name in ATTENTION]
    if _has_experts(blocks):
        found += [Variant("moe", name, needs=_moe_needs(name)) for name in MOE]
    defaults = {
        "attention": _default_attention(blocks),
        "moe": "looped" if _moe_needs("dropless") else "dropless",
    }
    return tuple(Variant(v.axis, v.name, defaults[v.axis] == v.name, v.needs) for v in found)


def variant_updates(request: TraceRequest, config: Any) -> dict[tuple[str, ...], str]:
    """Config updates for the variant: `("base_model", "decoder", "block", "mlp", "implementation"): "looped"`, …"""
    for axis, name in request.variant.items():
        if name not in CHOICES.get(axis, ()):
            raise UnsupportedError(f"Fast-LLM: no variant {axis}={name}")
    blocks = _blocks(config)
    updates: dict[tuple[str, ...], str] = {}
    if attention := request.variant.get("attention"):
        _check_attention(attention, request, blocks)
        updates |= {(*path, "mixer", "implementation"): attention for path, block in blocks if _is_attention(block)}
    if moe := request.variant.get("moe"):
        if not _has_experts(blocks):
            raise UnsupportedError(f"Fast-LLM: no variant moe={moe} of a model without experts")
        updates |= {(*path, *experts, "implementation"): moe for path, block in blocks if (experts := _experts(block))}
    return updates


def _check_attention(name: str, request: TraceRequest, blocks: Blocks) -> None:
    """What Fast-LLM would only stumble over in the middle of the forward."""
    needs = _attention_needs(name, blocks)
    if request.device == "cpu" and name in CUDA_ONLY:
        needs = "cuda"
    if name == "flash" and request.dtype not in LOW_PRECISION:
        needs = needs or f"{' or '.join(LOW_PRECISION)}, not {request.dtype}"
    if needs:
        raise UnsupportedError(f"Fast-LLM: attention={name} needs {needs}")


def runs_looped(request: TraceRequest, config: Any) -> bool:
    """Whether some block will loop over its experts, which reads gradient buffers and so needs the training mode."""
    if not _has_experts(_blocks(config)):
        return False
    return request.variant.get("moe") == "looped" or _moe_needs("dropless") is not None


def compiler_of(request: TraceRequest) -> str:
    """What runs Fast-LLM's `torch.compile`d functions: "eager" unless asked otherwise on CPU, else "inductor"."""
    return request.variant.get("compile", "eager" if request.device == "cpu" else "inductor")


def _blocks(config: Any) -> Blocks:
    """Each block configuration of the decoder with its path: one of a fixed sequence, the named ones of a pattern."""
    decoder, path = config.base_model.decoder, ("base_model", "decoder")
    if hasattr(decoder, "blocks"):
        return [((*path, "blocks", name), block) for name, block in decoder.blocks.items()]
    return [((*path, "block"), decoder.block)]


def _has_experts(blocks: Blocks) -> bool:
    return any(_experts(block) for _, block in blocks)


def _experts(block: Any) -> tuple[str, ...]:
    """The path of a block's mixture of experts below the block, () where it has none."""
    if hasattr(block.mlp, "routed"):
        return ("mlp", "routed")
    return ("mlp",) if hasattr(block.mlp, "experts") else ()


def _is_attention(block: Any) -> bool:
    return hasattr(block.mixer, "implementation")


def _attention_needs(name: str, blocks: Blocks) -> str | None:
    import torch

    if name not in CUDA_ONLY:
        return None
    if not torch.cuda.is_available():
        return "cuda"
    if name == "flash":
        return None if libraries(("flash-attn",)) else "flash-attn"
    windowed = any(getattr(block.mixer, "window_size", None) is not None for _, block in blocks)
    return "attention without a window" if windowed else None


def _default_attention(blocks: Blocks) -> str:
    return "sdpa_dense" if _attention_needs("sdpa_nested", blocks) else "sdpa_nested"


def _moe_needs(name: str) -> str | None:
    if name == "looped":
        return None
    from fast_llm.functional import triton

    if isinstance(triton.triton, triton.InvalidObject):
        return "triton"
    return None if triton.triton_available else "cuda"
