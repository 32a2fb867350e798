"""Reads and writes config.json of Fast-LLM's apriel_hybrid_ssm: Mistral's keys, and Mamba blocks among attention.

`fast_llm_external_models/apriel_hybrid_ssm` of https://github.com/ServiceNow/Fast-LLM. `hybrid_block_layout` has `t`
for attention and `m2` for Mamba, and other kinds are refused by name; `ssm_cfg` has the sizes of all Mamba blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ci.subjects.reference.config import Attention, Mamba
from ci.subjects.reference.config_json import read_config
from ci.subjects.reference.config_json_write import write_config
from ci.subjects.reference.config_section import ConfigSection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.reference.config import Architecture

NAME: Final = "apriel_hybrid_ssm"
LAYER_TYPES: Final = {"t": "full_attention", "m2": "mamba2"}
"""A layout's letters, and the names for them that the config's class adds as `layer_types`."""
OWN_KEYS: Final = ("hybrid_block_layout", "ssm_cfg", "layer_types", "linear_attn_config", "gdn_cfg")
DISCRETE_KEYS: Final = ("n_v_heads", "n_qk_heads", "chunk_size", "activation", "expand")
"""Keys of `ssm_cfg` that only the discrete Mamba-2 (`m2d`) reads, and a size that `d_inner` wins over."""
INITIALIZATION_KEYS: Final = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")


def read_apriel_hybrid(config: Mapping[str, Any], *, where: str) -> Architecture:
    """Read a config.json. Raises SubjectError for a malformed file, UnsupportedError for an unknown feature."""
    plain = read_config({key: config[key] for key in config if key not in OWN_KEYS}, NAME, where=where)
    section = ConfigSection(where, {key: config[key] for key in OWN_KEYS if key in config})
    layout = section.take("hybrid_block_layout", list, ["t"])
    if len(layout) != len(plain.blocks) or not {*layout} <= {*LAYER_TYPES}:
        raise section.refusal("hybrid_block_layout", layout)
    section.allow("layer_types", None, [LAYER_TYPES[kind] for kind in layout])
    section.ignore("linear_attn_config", "gdn_cfg")  # of blocks that the layout does not name
    sizes = section.take_section("ssm_cfg")
    section.finish()
    if "m2" not in layout:  # nothing reads the sizes, which need not fit: truncation may leave attention alone
        return plain
    mamba, blocks = _read_mamba(sizes, plain.hidden), zip(plain.blocks, layout, strict=True)
    return replace(plain, blocks=tuple(replace(b, mixer=mamba) if kind == "m2" else b for b, kind in blocks))


def _read_mamba(section: ConfigSection, hidden: int) -> Mamba:
    """Read the sizes of every Mamba block; the defaults are those of `ssm_config_default`."""
    section.allow("repeat_kv_before_conv", True)
    section.ignore(*DISCRETE_KEYS, *INITIALIZATION_KEYS)
    rank = -(-hidden // 16)
    if section.peek("dt_rank") == "auto":
        section.ignore("dt_rank")
    mamba = Mamba(
        inner=section.take_positive("d_inner", 4096),
        grouped=section.take_optional_positive("d_xb") or hidden,
        state=section.take_positive("d_state", 64),
        rank=section.take_positive("dt_rank", rank),
        kernel=section.take_positive("d_conv", 4),
        bias=section.take("bias", bool, False),
        convolution_bias=section.take("conv_bias", bool, True),
        step_bias=section.take("dt_proj_bias", bool, True),
    )
    section.finish()
    if mamba.inner % mamba.grouped or mamba.grouped % mamba.state:
        raise section.refusal("d_xb", f"{mamba.grouped} of {mamba.inner} in heads of {mamba.state}")
    return mamba


def write_apriel_hybrid(architecture: Architecture, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of config.json that say `architecture`, without those that have no effect.

    Raises UnsupportedError or SubjectError where no block has attention and `original` does not say its sizes.
    """
    mixers = [block.mixer for block in architecture.blocks]
    attention = next((mixer for mixer in mixers if isinstance(mixer, Attention)), None) or _read_attention(original)
    plain = replace(architecture, blocks=tuple(replace(block, mixer=attention) for block in architecture.blocks))
    layout = ["m2" if isinstance(mixer, Mamba) else "t" for mixer in mixers]
    written = write_config(plain, NAME, "", {key: original[key] for key in original if key not in OWN_KEYS})
    mamba = next((mixer for mixer in mixers if isinstance(mixer, Mamba)), None)
    unread = {"ssm_cfg": original["ssm_cfg"]} if "ssm_cfg" in original else {}
    return {
        **{key: written[key] for key in written if key not in ("dtype", "torch_dtype")},
        "hybrid_block_layout": layout,
        **({"layer_types": [LAYER_TYPES[kind] for kind in layout]} if "layer_types" in original else {}),
        **(unread if mamba is None else {"ssm_cfg": _write_mamba(mamba, architecture.hidden, original)}),
    }


def _read_attention(original: Mapping[str, Any]) -> Attention:
    plain = {key: original[key] for key in original if key not in OWN_KEYS}
    return read_config(plain, NAME).blocks[0].attention


def _write_mamba(mamba: Mamba, hidden: int, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return `ssm_cfg`: the original's where it says the same."""
    kept: dict[str, Any] = original.get("ssm_cfg") or {}
    if kept and _read_mamba(ConfigSection("ssm_cfg", kept), hidden) == mamba:
        return kept
    return {
        "d_inner": mamba.inner,
        "d_xb": mamba.grouped,
        "d_state": mamba.state,
        "dt_rank": mamba.rank,
        "d_conv": mamba.kernel,
        "bias": mamba.bias,
        "conv_bias": mamba.convolution_bias,
        "dt_proj_bias": mamba.step_bias,
    }
