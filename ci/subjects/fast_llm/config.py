"""Reads the configuration of a Fast-LLM checkpoint, and chooses the implementations that it runs."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ci.errors import RequestError, UnsupportedError
from ci.subjects.base import TraceRequest, Variant
from ci.subjects.fast_llm.offer import OFFER, OTHER_MIXERS
from ci.subjects.model_cache import Key, checkpoint_key
from ci.subjects.provenance import installed_versions

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION, MOE, MIXERS = OFFER.names("attention"), OFFER.names("moe"), OFFER.names("mixer")
CUDA_ONLY = tuple(variant.name for variant in OFFER.variants if variant.needs == "cuda")
COMPILE = ("eager", "inductor")
CHOICES = {"attention": ATTENTION, "moe": MOE, "compile": COMPILE, "mixer": MIXERS}
LOW_PRECISION = ("bfloat16", "float16")

Blocks = list[tuple[tuple[str, ...], Any]]


def find_model_class(name: str) -> Any:
    """Return Fast-LLM's configuration class of a model type such as "gpt". Raises UnsupportedError."""
    import fast_llm.models.auto  # noqa: F401 (registers the model classes)
    from fast_llm.engine.multi_stage.config import FastLLMModelConfig

    try:
        return FastLLMModelConfig.get_subclass(name)
    except KeyError:
        raise UnsupportedError(f"Fast-LLM has no model class {name!r}") from None


def find_format(model: Any, name: str) -> Any:
    """Return the checkpoint format `name` of a configuration class. Raises UnsupportedError."""
    formats = {format_.name: format_ for format_ in model.checkpoint_formats}
    if name not in formats:
        raise UnsupportedError(f"Fast-LLM does not convert the format {name!r}; it knows {', '.join(sorted(formats))}")
    return formats[name]


def read_model_config(checkpoint: Path) -> Any:
    """Read the model configuration of a Fast-LLM checkpoint; `metadata.yaml` names its class.

    It is kept for the next call, because reading takes 0.1 s and each trace asks: change nothing in it.
    """
    try:
        return _read_model_config(checkpoint_key(str(checkpoint)), checkpoint)
    except OSError as problem:
        raise RequestError(f"{checkpoint} is not a Fast-LLM checkpoint: metadata.yaml: {problem}") from None


@lru_cache(maxsize=4)
def _read_model_config(_: Key, checkpoint: Path) -> Any:
    import yaml
    from fast_llm.engine.checkpoint.config import CheckpointLoadMetadataConfig, FastLLMCheckpointFormat

    try:
        model = yaml.safe_load((checkpoint / "metadata.yaml").read_text(encoding="utf-8"))["model"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as problem:
        raise RequestError(f"{checkpoint} is not a Fast-LLM checkpoint: metadata.yaml: {problem}") from None
    load = CheckpointLoadMetadataConfig(path=checkpoint, format=FastLLMCheckpointFormat)
    return find_model_class(model).from_pretrained(load)


def list_variants(config: Any) -> tuple[Variant, ...]:
    """Return the MoE and attention implementations; the default is what `auto` means here for float32."""
    blocks = list_blocks(config)
    variants = []
    if any(_is_attention(mixer) for _, mixer in _list_mixers(blocks)):
        variants = [Variant("attention", name, needs=_find_attention_need(name, blocks)) for name in ATTENTION]
    if _has_experts(blocks):
        variants += [Variant("moe", name, needs=_find_moe_need(name)) for name in MOE]
    if _has_other_blocks(blocks):
        variants += [Variant("mixer", name, needs=_find_mixer_need(name, blocks)) for name in MIXERS]
    defaults = {
        "mixer": "",
        "attention": _choose_default_attention(blocks),
        "moe": "looped" if _find_moe_need("dropless") else "dropless",
    }
    return tuple(Variant(v.axis, v.name, defaults[v.axis] == v.name, v.needs) for v in variants)


def make_variant_updates(request: TraceRequest, config: Any) -> dict[tuple[str, ...], str]:
    """Return the config updates that choose the request's variant.

    For example `("base_model", "decoder", "block", "mlp", "implementation"): "looped"`.
    """
    for axis, name in request.variant.items():
        if name not in CHOICES.get(axis, ()):
            raise UnsupportedError(f"Fast-LLM has no variant {axis}={name}")
    blocks = list_blocks(config)
    updates: dict[tuple[str, ...], str] = {}
    if attention := request.variant.get("attention"):
        _check_attention(attention, request, blocks)
        updates |= {
            (*path, "implementation"): attention for path, mixer in _list_mixers(blocks) if _is_attention(mixer)
        }
    if main := request.variant.get("mixer"):
        if needs := _find_mixer_need(main, blocks):
            raise UnsupportedError(f"Fast-LLM: mixer={main} needs {needs}")
        updates |= {(*path, "mixer", "main_mixer_name"): main for path, _ in blocks}
    if moe := request.variant.get("moe"):
        if not _has_experts(blocks):
            raise UnsupportedError(f"Fast-LLM has no variant moe={moe} for a model without experts")
        updates |= {
            (*path, *experts, "implementation"): moe for path, block in blocks if (experts := _experts_path(block))
        }
    return updates


def _check_attention(name: str, request: TraceRequest, blocks: Blocks) -> None:
    """Raise UnsupportedError early, where Fast-LLM would fail in the middle of the forward pass."""
    needs = _find_attention_need(name, blocks)
    if request.device == "cpu" and name in CUDA_ONLY:
        needs = "cuda"
    if name == "flash" and request.dtype not in LOW_PRECISION:
        needs = needs or f"{' or '.join(LOW_PRECISION)}, not {request.dtype}"
    if needs:
        raise UnsupportedError(f"Fast-LLM: attention={name} needs {needs}")


def loops_over_experts(request: TraceRequest, config: Any) -> bool:
    """Return whether some block loops over its experts.

    That reads gradient buffers, so it needs training mode.
    """
    if not _has_experts(list_blocks(config)):
        return False
    return request.variant.get("moe") == "looped" or _find_moe_need("dropless") is not None


def choose_compiler(request: TraceRequest) -> str:
    """Return what runs the `torch.compile`d functions: by default "eager" on the CPU, "inductor" on CUDA."""
    return request.variant.get("compile", "eager" if request.device == "cpu" else "inductor")


def compile_stance(compiler: str) -> Any:
    """Return a context in which compiled functions run eagerly, for the compiler "eager".

    https://docs.pytorch.org/docs/stable/generated/torch.compiler.set_stance.html
    """
    import torch

    return torch.compiler.set_stance("force_eager") if compiler == "eager" else nullcontext()


def list_blocks(config: Any) -> Blocks:
    """Return each block configuration of the decoder with its path.

    A fixed sequence has one, a pattern has one for each name.
    """
    decoder, path = config.base_model.decoder, ("base_model", "decoder")
    if hasattr(decoder, "blocks"):
        return [((*path, "blocks", name), block) for name, block in decoder.blocks.items()]
    return [((*path, "block"), decoder.block)]


def _has_experts(blocks: Blocks) -> bool:
    return any(_experts_path(block) for _, block in blocks)


def _experts_path(block: Any) -> tuple[str, ...]:
    """Return the path of the mixture of experts below its block, () where it has none."""
    if hasattr(block.mlp, "routed"):
        return ("mlp", "routed")
    return ("mlp",) if hasattr(block.mlp, "experts") else ()


def _list_mixers(blocks: Blocks) -> Blocks:
    """Return each mixer's configuration with its path: those of a stochastic mixer one by one."""
    mixers: Blocks = []
    for path, block in blocks:
        several = getattr(block.mixer, "mixers", None)
        named = {("mixers", name): mixer for name, mixer in several.items()} if several else {(): block.mixer}
        mixers += [((*path, "mixer", *name), mixer) for name, mixer in named.items()]
    return mixers


def _is_attention(mixer: Any) -> bool:
    return hasattr(mixer, "implementation")


def _has_other_blocks(blocks: Blocks) -> bool:
    """Return whether the blocks are of a format that has other mixers than attention."""
    return any(not _is_attention(mixer) for _, mixer in _list_mixers(blocks)) or len(_list_mixers(blocks)) > len(blocks)


def _find_mixer_need(name: str, blocks: Blocks) -> str | None:
    return None if all(name in getattr(block.mixer, "mixers", ()) for _, block in blocks) else OTHER_MIXERS


def _find_attention_need(name: str, blocks: Blocks) -> str | None:
    import torch

    if name not in CUDA_ONLY:
        return None
    if not torch.cuda.is_available():
        return "cuda"
    if name == "flash":
        return None if installed_versions(("flash-attn",)) else "flash-attn"
    windowed = any(getattr(mixer, "window_size", None) is not None for _, mixer in _list_mixers(blocks))
    return "attention without a window" if windowed else None


def _choose_default_attention(blocks: Blocks) -> str:
    return "sdpa_dense" if _find_attention_need("sdpa_nested", blocks) else "sdpa_nested"


def _find_moe_need(name: str) -> str | None:
    if name == "looped":
        return None
    from fast_llm.functional import triton

    if isinstance(triton.triton, triton.InvalidObject):
        return "triton"
    return None if triton.triton_available else "cuda"
