"""The parameters of mixers with a state: the same tensors on both sides, by nearly the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.subjects.reference.parameter import Parameter, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.subjects.reference.config import GatedDeltaNet, KimiDeltaAttention, Mamba


def list_gated_delta_net(fast_llm: str, hugging_face: str, mixer: GatedDeltaNet, hidden: int) -> Iterator[Parameter]:
    """Yield the parameters of a gated delta net, in execution order."""
    keys, values = mixer.key_heads * mixer.key_head_dim, mixer.value_heads * mixer.value_head_dim
    shapes = {
        "in_proj_qkvz.weight": (2 * keys + 2 * values, hidden),
        "in_proj_ba.weight": (2 * mixer.value_heads, hidden),
        "convolution.weight": (2 * keys + values, 1, mixer.kernel),
        "out_proj.weight": (hidden, values),
        "dt_bias": (mixer.value_heads,),
        "A_log": (mixer.value_heads,),
        "norm.weight": (mixer.value_head_dim,),
    }
    return _list_same(fast_llm, hugging_face, shapes)


def list_kimi_delta_attention(
    fast_llm: str, hugging_face: str, mixer: KimiDeltaAttention, hidden: int
) -> Iterator[Parameter]:
    """Yield the parameters of Kimi delta attention, in execution order."""
    size = mixer.heads * mixer.head_dim
    shapes: dict[str, tuple[int, ...]] = {f"{name}_proj.weight": (size, hidden) for name in "qkv"}
    shapes |= {f"{name}_conv.weight": (size, 1, mixer.kernel) for name in "qkv"}
    for gate in "fg":
        shapes[f"{gate}_a_proj.weight"] = (mixer.head_dim, hidden)
        shapes[f"{gate}_b_proj.weight"] = (size, mixer.head_dim)
    shapes |= {
        "beta_proj.weight": (mixer.heads, hidden),
        "o_proj.weight": (hidden, size),
        "dt_bias": (size,),
        "A_log": (mixer.heads,),
        "norm.weight": (mixer.head_dim,),
    }
    return _list_same(fast_llm, hugging_face, shapes)


def list_mamba(fast_llm: str, hugging_face: str, mixer: Mamba, hidden: int) -> Iterator[Parameter]:
    """Yield the parameters of a Mamba block, in execution order."""
    inner, fast = mixer.inner, f"{fast_llm}.convolution"
    convolution = {"weight": (inner, 1, mixer.kernel), **({"bias": (inner,)} if mixer.convolution_bias else {})}
    for name, shape in convolution.items():
        yield Parameter(f"{fast}.{name}", (Part(f"{hugging_face}.conv1d.{name}", shape, stacked=False),))
    linear = {
        "in_proj": (2 * inner + 2 * mixer.grouped, hidden, mixer.bias),
        "dt_in_proj": (mixer.rank, hidden, mixer.bias),
        "dt_proj": (inner, mixer.rank, mixer.step_bias),
        "out_proj": (hidden, inner, mixer.bias),
    }
    shapes: dict[str, tuple[int, ...]] = {"A_log": (inner, mixer.state), "D": (inner,)}
    for name, (rows, columns, bias) in linear.items():
        shapes |= {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}
    yield from _list_same(fast_llm, hugging_face, shapes)


def _list_same(fast_llm: str, hugging_face: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Parameter]:
    for name, shape in shapes.items():
        yield Parameter(f"{fast_llm}.{name}", (Part(f"{hugging_face}.{name}", shape, stacked=False),))
