"""Finds the parts of a transformers decoder: its blocks, and each block's mixer, norm, MLP and router.

Modules are found by the names that decoders share (`self_attn` or `mixer`, `mlp`, the norm before the MLP, `gate`).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from ci.errors import UnsupportedError
from ci.hub.truncation_rules import OTHER_MODALITY
from ci.tensor_names import list_block_operations

MixerKind = Literal["attention", "delta_rule", "scan", "other"]
"""What a block mixes tokens with: softmax attention, the delta rule, a selective scan (Mamba), or anything else."""
PREDICTION_BLOCKS = "model.mtp_heads"
"""Where the blocks of further prediction heads are (Fast-LLM's mtp_llama)."""


def find_decoder_blocks(model: Any) -> nn.ModuleList:
    """Return the decoder's blocks: the one ModuleList as long as the text config says that the decoder is."""
    count = read_depth(model.config.get_text_config())
    heads = _find_path(model, PREDICTION_BLOCKS)
    named = ((name, module) for name, module in model.named_modules() if not OTHER_MODALITY.search(name))
    lists = [m for _, m in named if isinstance(m, nn.ModuleList) and len(m) == count and m is not heads]
    lists = [m for m in lists if _is_block_list(m)]
    if len(lists) != 1:
        raise UnsupportedError(f"{type(model).__name__}: found {len(lists)} stacks of {count} decoder blocks, not one")
    return lists[0]


def read_depth(config: Any) -> int:
    """Return the number of blocks that a text config names."""
    if isinstance(decoder := getattr(config, "decoder", None), dict):  # Fast-LLM's apriel2
        return int(decoder["num_blocks"])
    return int(config.num_hidden_layers)


def find_prediction_blocks(model: Any) -> list[nn.Module]:
    """Return the blocks of further prediction heads: one a head, none for a model with one head."""
    heads = _find_path(model, PREDICTION_BLOCKS)
    return list(heads) if isinstance(heads, nn.ModuleList) else []


def has_experts(model: Any) -> bool:
    """Return whether some module holds the experts of a mixture."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())


def find_mixer(block: nn.Module) -> nn.Module | None:
    """Return what mixes the tokens of a block; of several that take turns, the main one."""
    mixer = find_child(block, "self_attn", "mixer")
    several = mixer is not None and find_child(mixer, "mixers")
    return several[mixer.main_mixer_name] if isinstance(several, nn.ModuleDict) else mixer  # type: ignore[index,union-attr]


def find_mixer_name(block: nn.Module) -> str:
    """Return the name of the main mixer where several take turns, else an empty string."""
    mixer = find_child(block, "mixer")
    return str(mixer.main_mixer_name) if mixer is not None and find_child(mixer, "mixers") is not None else ""


def list_idle_parameters(model: Any) -> set[str]:
    """Return the names of the parameters of mixers that did not run, where several take turns."""
    idle: set[int] = set()
    for block in find_decoder_blocks(model):
        main = find_mixer_name(block)
        mixer = find_child(block, "mixer")
        several = find_child(mixer, "mixers") if main and mixer is not None else None
        for name, other in several.named_children() if several is not None else ():
            idle |= {id(parameter) for parameter in other.parameters() if name != main}
    return {name for name, parameter in model.named_parameters() if id(parameter) in idle}


def classify_mixer(mixer: nn.Module | None) -> MixerKind:
    """Say what a mixer computes, by the parts that it has."""
    if mixer is None:
        return "other"
    parts = dict(mixer.named_children()) | dict(mixer.named_parameters(recurse=False))
    if {"A_log", "dt_bias", "norm"} <= parts.keys():
        return "delta_rule"
    if {"A_log", "D", "dt_proj", "out_proj"} <= parts.keys():
        return "scan"
    return "attention" if {"q_proj", "k_proj"} <= parts.keys() else "other"


def list_operations(block: nn.Module) -> tuple[str, ...]:
    """Return the operations of a block in execution order."""
    mlp, branches = find_mlp(block), find_branch_norms(block) is not None
    experts = branches or (mlp is not None and find_child(mlp, "experts") is not None)
    kind = classify_mixer(find_mixer(block))
    recurrent = {"delta_rule": kind == "delta_rule", "scan": kind == "scan"}
    return list_block_operations(experts=experts, branches=branches, **recurrent)


def find_child(module: nn.Module, *names: str) -> nn.Module | None:
    """Return the first child of one of these names."""
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def find_mlp(block: nn.Module) -> nn.Module | None:
    """Return a block's MLP, or its mixture of experts."""
    return find_child(block, "mlp", "block_sparse_moe", "feed_forward")


def find_norm_before_mlp(block: nn.Module) -> nn.Module | None:
    """Return the norm that reads the residual after the mixer."""
    return find_child(block, "pre_feedforward_layernorm", "post_attention_layernorm")


def find_branch_norms(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Return the norms after the dense and the routed branch of a block that has both (Gemma 4)."""
    dense, routed = (find_child(block, f"post_feedforward_layernorm_{number}") for number in (1, 2))
    return None if dense is None or routed is None else (dense, routed)


def find_router(mlp: nn.Module) -> nn.Module | None:
    """Return what chooses the experts of a mixture."""
    return find_child(mlp, "gate", "router")


def _is_block_list(modules: nn.ModuleList) -> bool:
    return all(len(list(module.children())) > 1 for module in modules)


def _find_path(model: Any, path: str) -> nn.Module | None:
    try:
        found: nn.Module = model.get_submodule(path)
    except AttributeError:
        return None
    return found
