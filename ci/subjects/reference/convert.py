"""Which Hugging Face tensors make up which Fast-LLM parameter: the one table, read in both directions.

Every Fast-LLM parameter is its parts stacked along dimension 0, some of them transposed:
https://github.com/ServiceNow/Fast-LLM/tree/main/fast_llm/models/gpt/conversion
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ci.subjects.reference.checkpoint import BLOCK, Planned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from ci.subjects.reference.checkpoint import Tensors
    from ci.subjects.reference.config import Architecture, Attention, Block, Mlp

EMBEDDINGS = "embeddings.word_embeddings_weight"
HEAD = "head.output_weights"
FINAL_NORM = "head.final_norm.weight"
HF_EMBEDDINGS = "model.embed_tokens.weight"
HF_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Part:
    """A Hugging Face tensor; `transposed`: the Fast-LLM parameter holds its transpose."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def rows(self) -> int:
        """How many rows of the parameter it fills."""
        return self.shape[-1] if self.transposed else self.shape[0]


@dataclass(frozen=True)
class Parameter:
    """A Fast-LLM parameter and its parts in order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in Fast-LLM."""
        first = self.parts[0]
        return (sum(part.rows for part in self.parts), *(first.shape[:1] if first.transposed else first.shape[1:]))


def parameters(architecture: Architecture) -> Iterator[Parameter]:
    """Every parameter of a model, in execution order."""
    hidden, vocabulary = architecture.hidden, architecture.vocabulary
    yield Parameter(EMBEDDINGS, (Part(HF_EMBEDDINGS, (vocabulary, hidden)),))
    for index, block in enumerate(architecture.blocks):
        yield from _block(f"decoder.{index}", f"model.layers.{index}", block, hidden)
    yield Parameter(FINAL_NORM, (Part("model.norm.weight", (hidden,)),))
    if not architecture.tied:
        yield Parameter(HEAD, (Part(HF_HEAD, (vocabulary, hidden)),))


def _block(ours: str, theirs: str, block: Block, hidden: int) -> Iterator[Parameter]:
    yield Parameter(f"{ours}.norm_1.weight", (Part(f"{theirs}.input_layernorm.weight", (hidden,)),))
    yield from _attention(f"{ours}.mixer", f"{theirs}.self_attn", block.attention, hidden)
    yield Parameter(f"{ours}.norm_2.weight", (Part(f"{theirs}.post_attention_layernorm.weight", (hidden,)),))
    if block.mlp.experts is None:
        yield from _mlp(f"{ours}.mlp", f"{theirs}.mlp", block.mlp, hidden)
    else:
        yield from _experts(f"{ours}.mlp", f"{theirs}.block_sparse_moe", block.mlp, hidden)


def _attention(ours: str, theirs: str, attention: Attention, hidden: int) -> Iterator[Parameter]:
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    yield from _linear(f"{ours}.query", (f"{theirs}.q_proj",), (queries, hidden), bias=attention.qkv_bias)
    key_value = (f"{theirs}.k_proj", f"{theirs}.v_proj")
    yield from _linear(f"{ours}.key_value", key_value, (keys, hidden), bias=attention.qkv_bias)
    yield from _linear(f"{ours}.dense", (f"{theirs}.o_proj",), (hidden, queries), bias=attention.output_bias)


def _mlp(ours: str, theirs: str, mlp: Mlp, hidden: int) -> Iterator[Parameter]:
    gate_up = (f"{theirs}.gate_proj", f"{theirs}.up_proj")
    yield from _linear(f"{ours}.layer_1", gate_up, (mlp.intermediate, hidden), bias=mlp.bias)
    down = Part(f"{theirs}.down_proj.weight", (hidden, mlp.intermediate), transposed=True)
    yield Parameter(f"{ours}.layer_2.weight", (down,))
    if mlp.bias:
        yield Parameter(f"{ours}.layer_2.bias", (Part(f"{theirs}.down_proj.bias", (hidden,)),))


def _experts(ours: str, theirs: str, mlp: Mlp, hidden: int) -> Iterator[Parameter]:
    """Experts one after the other; w1 is the gate, w3 the up projection, w2 the down projection."""
    yield from _linear(f"{ours}.router", (f"{theirs}.gate",), (mlp.experts or 0, hidden), bias=False)
    experts = [f"{theirs}.experts.{expert}" for expert in range(mlp.experts or 0)]
    gate_up = tuple(f"{expert}.{layer}" for expert in experts for layer in ("w1", "w3"))
    yield from _linear(f"{ours}.layer_1", gate_up, (mlp.intermediate, hidden), bias=False)
    down = tuple(Part(f"{expert}.w2.weight", (hidden, mlp.intermediate), transposed=True) for expert in experts)
    yield Parameter(f"{ours}.layer_2.weight", down)


def _linear(ours: str, theirs: Iterable[str], shape: tuple[int, int], *, bias: bool) -> Iterator[Parameter]:
    yield Parameter(f"{ours}.weight", tuple(Part(f"{name}.weight", shape) for name in theirs))
    if bias:
        yield Parameter(f"{ours}.bias", tuple(Part(f"{name}.bias", shape[:1]) for name in theirs))


def to_fast_llm(wanted: Iterable[Parameter], source: Tensors) -> Iterator[Planned]:
    """Each parameter stacked from the Hugging Face tensors of `source`."""
    return (Planned(weights_key(p), p.shape, partial(_stacked, p, source)) for p in wanted)


def _stacked(parameter: Parameter, source: Tensors) -> Iterator[Tensor]:
    for part in parameter.parts:
        yield from _blocks(source, part.name, 0, part.shape[0], transposed=part.transposed)


def to_huggingface(wanted: Iterable[Parameter], source: Tensors) -> Iterator[Planned]:
    """Each Hugging Face tensor cut out of the Fast-LLM parameters of `source`."""
    for parameter in wanted:
        key, begin = weights_key(parameter), 0
        for part in parameter.parts:
            end = begin + part.rows
            yield Planned(part.name, part.shape, partial(_blocks, source, key, begin, end, transposed=part.transposed))
            begin = end


def weights_key(parameter: Parameter) -> str:
    """The name on disk: optimizer state has other shards of the same parameter beside `weights`."""
    return f"{parameter.name}/weights"


def _blocks(source: Tensors, key: str, begin: int, end: int, *, transposed: bool) -> Iterator[Tensor]:
    """Rows [begin, end) of a stored tensor, as they are or their transpose, in blocks."""
    if not transposed:
        yield from source.blocks(key, begin, end)
        return
    turned = source.rows(key, begin, end).t()
    step = max(1, BLOCK // turned.shape[1])
    yield from (turned[at : at + step] for at in range(0, turned.shape[0], step))
