"""Maps Hugging Face tensors to Fast-LLM parameters: one table that is used in both directions.

Every Fast-LLM parameter is its parts stacked along dimension 0; some parts are transposed:
https://github.com/ServiceNow/Fast-LLM/tree/main/fast_llm/models/gpt/conversion
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ci.subjects.reference.tensor_files import BLOCK_ELEMENTS, PlannedTensor
from ci.tensor_names import block_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from ci.subjects.reference.config import Architecture, Attention, Block, Mlp
    from ci.subjects.reference.tensor_files import TensorFiles

EMBEDDINGS_WEIGHT = "embeddings.word_embeddings_weight"
HEAD_WEIGHT = "head.output_weights"
FINAL_NORM_WEIGHT = "head.final_norm.weight"
HF_EMBEDDINGS = "model.embed_tokens.weight"
HF_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Part:
    """A Hugging Face tensor in a Fast-LLM parameter; `transposed`: the parameter holds its transpose."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def rows(self) -> int:
        """The number of the parameter's rows that it fills."""
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


def list_parameters(architecture: Architecture) -> Iterator[Parameter]:
    """Yield every parameter of a model, in execution order."""
    hidden, vocabulary = architecture.hidden, architecture.vocabulary
    yield Parameter(EMBEDDINGS_WEIGHT, (Part(HF_EMBEDDINGS, (vocabulary, hidden)),))
    for index, block in enumerate(architecture.blocks):
        yield from _list_block(block_name(index), f"model.layers.{index}", block, hidden)
    yield Parameter(FINAL_NORM_WEIGHT, (Part("model.norm.weight", (hidden,)),))
    if not architecture.tied:
        yield Parameter(HEAD_WEIGHT, (Part(HF_HEAD, (vocabulary, hidden)),))


def _list_block(fast_llm: str, hugging_face: str, block: Block, hidden: int) -> Iterator[Parameter]:
    yield Parameter(f"{fast_llm}.norm_1.weight", (Part(f"{hugging_face}.input_layernorm.weight", (hidden,)),))
    yield from _list_attention(f"{fast_llm}.mixer", f"{hugging_face}.self_attn", block.attention, hidden)
    yield Parameter(f"{fast_llm}.norm_2.weight", (Part(f"{hugging_face}.post_attention_layernorm.weight", (hidden,)),))
    if block.mlp.experts is None:
        yield from _list_mlp(f"{fast_llm}.mlp", f"{hugging_face}.mlp", block.mlp, hidden)
    else:
        yield from _list_experts(f"{fast_llm}.mlp", f"{hugging_face}.block_sparse_moe", block.mlp, hidden)


def _list_attention(fast_llm: str, hugging_face: str, attention: Attention, hidden: int) -> Iterator[Parameter]:
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    yield from _list_linear(
        f"{fast_llm}.query", (f"{hugging_face}.q_proj",), (queries, hidden), bias=attention.qkv_bias
    )
    key_value = (f"{hugging_face}.k_proj", f"{hugging_face}.v_proj")
    yield from _list_linear(f"{fast_llm}.key_value", key_value, (keys, hidden), bias=attention.qkv_bias)
    yield from _list_linear(
        f"{fast_llm}.dense", (f"{hugging_face}.o_proj",), (hidden, queries), bias=attention.output_bias
    )


def _list_mlp(fast_llm: str, hugging_face: str, mlp: Mlp, hidden: int) -> Iterator[Parameter]:
    gate_up = (f"{hugging_face}.gate_proj", f"{hugging_face}.up_proj")
    yield from _list_linear(f"{fast_llm}.layer_1", gate_up, (mlp.intermediate, hidden), bias=mlp.bias)
    down = Part(f"{hugging_face}.down_proj.weight", (hidden, mlp.intermediate), transposed=True)
    yield Parameter(f"{fast_llm}.layer_2.weight", (down,))
    if mlp.bias:
        yield Parameter(f"{fast_llm}.layer_2.bias", (Part(f"{hugging_face}.down_proj.bias", (hidden,)),))


def _list_experts(fast_llm: str, hugging_face: str, mlp: Mlp, hidden: int) -> Iterator[Parameter]:
    """Yield the router and the stacked experts.

    w1 is the gate, w3 the up and w2 the down projection.
    """
    yield from _list_linear(f"{fast_llm}.router", (f"{hugging_face}.gate",), (mlp.experts or 0, hidden), bias=False)
    experts = [f"{hugging_face}.experts.{expert}" for expert in range(mlp.experts or 0)]
    gate_up = tuple(f"{expert}.{layer}" for expert in experts for layer in ("w1", "w3"))
    yield from _list_linear(f"{fast_llm}.layer_1", gate_up, (mlp.intermediate, hidden), bias=False)
    down = tuple(Part(f"{expert}.w2.weight", (hidden, mlp.intermediate), transposed=True) for expert in experts)
    yield Parameter(f"{fast_llm}.layer_2.weight", down)


def _list_linear(
    fast_llm: str, hugging_face: Iterable[str], shape: tuple[int, int], *, bias: bool
) -> Iterator[Parameter]:
    yield Parameter(f"{fast_llm}.weight", tuple(Part(f"{name}.weight", shape) for name in hugging_face))
    if bias:
        yield Parameter(f"{fast_llm}.bias", tuple(Part(f"{name}.bias", shape[:1]) for name in hugging_face))


def to_fast_llm(parameters: Iterable[Parameter], source: TensorFiles) -> Iterator[PlannedTensor]:
    """Yield each parameter, stacked from the Hugging Face tensors of `source`."""
    return (PlannedTensor(stored_name(p), p.shape, partial(_stack_parts, p, source)) for p in parameters)


def _stack_parts(parameter: Parameter, source: TensorFiles) -> Iterator[Tensor]:
    for part in parameter.parts:
        yield from _read_rows(source, part.name, 0, part.shape[0], transposed=part.transposed)


def to_huggingface(parameters: Iterable[Parameter], source: TensorFiles) -> Iterator[PlannedTensor]:
    """Yield each Hugging Face tensor, cut out of the Fast-LLM parameters of `source`."""
    for parameter in parameters:
        key, begin = stored_name(parameter), 0
        for part in parameter.parts:
            end = begin + part.rows
            yield PlannedTensor(
                part.name, part.shape, partial(_read_rows, source, key, begin, end, transposed=part.transposed)
            )
            begin = end


def stored_name(parameter: Parameter) -> str:
    """Return a parameter's name on disk.

    It ends in the shard: optimizer state has other shards beside `weights`.
    """
    return f"{parameter.name}/weights"


def _read_rows(source: TensorFiles, key: str, begin: int, end: int, *, transposed: bool) -> Iterator[Tensor]:
    """Yield rows [begin, end) of a stored tensor, or their transpose, in blocks."""
    if not transposed:
        yield from source.read_blocks(key, begin, end)
        return
    rows = source.read_rows(key, begin, end).t()
    step = max(1, BLOCK_ELEMENTS // rows.shape[1])
    yield from (rows[at : at + step] for at in range(0, rows.shape[0], step))
