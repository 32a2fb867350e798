"""Maps Hugging Face tensors to Fast-LLM parameters: one table that is used in both directions.

Every Fast-LLM parameter is its parts stacked along dimension 0; some parts are transposed:
https://github.com/ServiceNow/Fast-LLM/tree/main/fast_llm/models/gpt/conversion
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ci.subjects.reference.config import Attention, GatedDeltaNet, Mamba, StochasticMixer
from ci.subjects.reference.convert_delta import list_gated_delta_net, list_kimi_delta_attention, list_mamba
from ci.subjects.reference.parameter import Parameter, Part
from ci.subjects.reference.tensor_files import BLOCK_ELEMENTS, PlannedTensor
from ci.subjects.reference.weight_names import (
    EMBEDDINGS_WEIGHT,
    FINAL_NORM_WEIGHT,
    HEAD_WEIGHT,
    PATCH_NORM_WEIGHT,
    PATCH_WEIGHT,
    VISION_BLOCK,
    BlockNames,
    WeightNames,
    name_prediction_block,
    name_prediction_norm,
)
from ci.tensor_names import PROJECTOR, block_name, vision_block_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from ci.subjects.reference.config import Architecture, Block, Mixer, Mlp, VisionTower
    from ci.subjects.reference.tensor_files import TensorFiles

LLAMA: Final = WeightNames()


def list_parameters(architecture: Architecture, names: WeightNames = LLAMA) -> Iterator[Parameter]:
    """Yield every parameter of a model, in execution order; `names` are those of its Hugging Face format."""
    hidden, vocabulary = architecture.hidden, architecture.vocabulary
    if architecture.vision is not None:
        yield from _list_vision(architecture.vision, hidden)
    yield Parameter(EMBEDDINGS_WEIGHT, (Part(names.embeddings, (vocabulary, hidden)),))
    for index, block in enumerate(architecture.blocks):
        yield from _list_block(block_name(index), f"{names.blocks}.{index}", names.block, block, hidden)
    yield Parameter(FINAL_NORM_WEIGHT, (Part(names.final_norm, (hidden,)),))
    if not architecture.tied:
        yield Parameter(HEAD_WEIGHT, (Part(names.head, (vocabulary, hidden)),))
    for head in range(1, architecture.prediction_heads):
        path = f"{names.prediction_blocks}.{head - 1}"
        yield from _list_block(name_prediction_block(head), path, names.block, architecture.blocks[-1], hidden)
        norm = Part(f"{names.prediction_norms}.{head}.weight", (hidden,))
        yield Parameter(name_prediction_norm(head), (norm,))


def _list_block(fast_llm: str, hugging_face: str, names: BlockNames, block: Block, hidden: int) -> Iterator[Parameter]:
    def norm(name: str, hf_name: str) -> Parameter:
        return Parameter(f"{fast_llm}.{name}.weight", (Part(f"{hugging_face}.{hf_name}.weight", (hidden,)),))

    yield norm("norm_1", names.norm_1)
    mixer = names.mamba if isinstance(block.mixer, Mamba) else names.mixer
    yield from _list_mixer(f"{fast_llm}.mixer", f"{hugging_face}.{mixer}", block.mixer, hidden)
    if block.post_norms:
        yield norm("post_mixer_norm", "post_attention_layernorm")
    if block.routed is None:
        yield norm("norm_2", "pre_feedforward_layernorm" if block.post_norms else names.norm_2)
    if block.mlp.experts is not None:
        yield from _list_experts(f"{fast_llm}.mlp", f"{hugging_face}.block_sparse_moe", block.mlp, hidden)
    elif block.routed is None:
        yield from _list_mlp(f"{fast_llm}.mlp", f"{hugging_face}.{names.mlp}", block.mlp, hidden)
    else:
        yield norm("mlp.dense.pre_norm", "pre_feedforward_layernorm")
        yield from _list_mlp(f"{fast_llm}.mlp.dense", f"{hugging_face}.mlp", block.mlp, hidden)
        yield norm("mlp.dense.post_norm", "post_feedforward_layernorm_1")
        yield norm("mlp.routed.pre_norm", "pre_feedforward_layernorm_2")
        yield from _list_routed(f"{fast_llm}.mlp.routed", hugging_face, block.routed, hidden)
        yield norm("mlp.routed.post_norm", "post_feedforward_layernorm_2")
    if block.post_norms:
        yield norm("post_mlp_norm", "post_feedforward_layernorm")
    if block.output_scale:
        yield Parameter(f"{fast_llm}.output_scale", (Part(f"{hugging_face}.layer_scalar", (1,)),))


def _list_vision(vision: VisionTower, hidden: int) -> Iterator[Parameter]:
    """Yield the parameters of a vision tower and of its projector to `hidden` values: both are llava's."""
    size, patch = vision.hidden, vision.patch
    yield Parameter(PATCH_WEIGHT, (Part("vision_tower.patch_conv.weight", (size, vision.channels, patch, patch)),))
    yield Parameter(PATCH_NORM_WEIGHT, (Part("vision_tower.ln_pre.weight", (size,)),))
    for index, block in enumerate(vision.blocks):
        path = f"vision_tower.transformer.layers.{index}"
        yield from _list_block(vision_block_name(index), path, VISION_BLOCK, block, size)
    for number, columns in ((1, size), (2, hidden)):
        source, shape = f"multi_modal_projector.linear_{number}", (hidden, columns)
        weight = Part(f"{source}.weight", shape, transposed=number == 2)
        yield Parameter(f"{PROJECTOR}.layer_{number}.weight", (weight,))
        if vision.projector_bias:
            yield Parameter(f"{PROJECTOR}.layer_{number}.bias", (Part(f"{source}.bias", (hidden,)),))


def _list_mixer(fast_llm: str, hugging_face: str, mixer: Mixer, hidden: int) -> Iterator[Parameter]:
    if isinstance(mixer, StochasticMixer):
        for name, one in mixer.mixers:
            yield from _list_mixer(f"{fast_llm}.mixers.{name}", f"{hugging_face}.mixers.{name}", one, hidden)
    elif isinstance(mixer, Attention):
        yield from _list_attention(fast_llm, hugging_face, mixer, hidden)
    elif isinstance(mixer, GatedDeltaNet):
        yield from list_gated_delta_net(fast_llm, hugging_face, mixer, hidden)
    elif isinstance(mixer, Mamba):
        yield from list_mamba(fast_llm, hugging_face, mixer, hidden)
    else:
        yield from list_kimi_delta_attention(fast_llm, hugging_face, mixer, hidden)


def _list_attention(fast_llm: str, hugging_face: str, attention: Attention, hidden: int) -> Iterator[Parameter]:
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    yield from _list_linear(
        f"{fast_llm}.query", (f"{hugging_face}.q_proj",), (queries, hidden), bias=attention.qkv_bias
    )
    key_value = [f"{hugging_face}.k_proj", *([] if attention.shared_key_value else [f"{hugging_face}.v_proj"])]
    yield from _list_linear(f"{fast_llm}.key_value", key_value, (keys, hidden), bias=attention.qkv_bias)
    yield from _list_linear(
        f"{fast_llm}.dense", (f"{hugging_face}.o_proj",), (hidden, queries), bias=attention.output_bias
    )
    if attention.norm_epsilon is not None:
        yield from _list_head_norms(fast_llm, hugging_face, attention)


def _list_head_norms(fast_llm: str, hugging_face: str, attention: Attention) -> Iterator[Parameter]:
    for name, short in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
        yield Parameter(f"{fast_llm}.{name}.weight", (Part(f"{hugging_face}.{short}.weight", (attention.head_dim,)),))


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


def _list_routed(fast_llm: str, hugging_face: str, mlp: Mlp, hidden: int) -> Iterator[Parameter]:
    """Yield the scaled router and the experts beside a dense MLP: one tensor holds all of them."""
    count, width = mlp.experts or 0, mlp.intermediate
    yield Parameter(f"{fast_llm}.router.weight", (Part(f"{hugging_face}.router.proj.weight", (count, hidden)),))
    yield Parameter(f"{fast_llm}.router_scale", (Part(f"{hugging_face}.router.scale", (hidden,)),))
    scales = Part(f"{hugging_face}.router.per_expert_scale", (count,))
    yield Parameter(f"{fast_llm}.router_per_expert_scale", (scales,))
    gate_up = Part(f"{hugging_face}.experts.gate_up_proj", (count, 2 * width, hidden))
    yield Parameter(f"{fast_llm}.layer_1.weight", (gate_up,))
    down = Part(f"{hugging_face}.experts.down_proj", (count, hidden, width), transposed=True)
    yield Parameter(f"{fast_llm}.layer_2.weight", (down,))


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
        if part.matrices > 1:
            for matrix in range(part.matrices):
                stored = source.read_rows(part.name, matrix, matrix + 1)[0]
                yield stored.t() if part.transposed else stored
        else:
            yield from _read_rows(source, part.name, 0, part.shape[0], transposed=part.transposed)


def to_huggingface(parameters: Iterable[Parameter], source: TensorFiles) -> Iterator[PlannedTensor]:
    """Yield each Hugging Face tensor, cut out of the Fast-LLM parameters of `source`."""
    for parameter in parameters:
        key, begin = stored_name(parameter), 0
        for part in parameter.parts:
            yield PlannedTensor(part.name, part.shape, partial(_cut_part, source, key, part, begin))
            begin += part.rows


def stored_name(parameter: Parameter) -> str:
    """Return a parameter's name on disk.

    It ends in the shard: optimizer state has other shards beside `weights`.
    """
    return f"{parameter.name}/weights"


def _cut_part(source: TensorFiles, key: str, part: Part, begin: int) -> Iterator[Tensor]:
    """Yield the rows of a part, matrix by matrix: a transposed one is whole in memory."""
    rows = part.rows // part.matrices
    for matrix in range(part.matrices):
        at = begin + matrix * rows
        yield from _read_rows(source, key, at, at + rows, transposed=part.transposed)


def _read_rows(source: TensorFiles, key: str, begin: int, end: int, *, transposed: bool) -> Iterator[Tensor]:
    """Yield rows [begin, end) of a stored tensor, or their transpose, in blocks."""
    if not transposed:
        yield from source.read_blocks(key, begin, end)
        return
    rows = source.read_rows(key, begin, end).t()
    step = max(1, BLOCK_ELEMENTS // rows.shape[1])
    yield from (rows[at : at + step] for at in range(0, rows.shape[0], step))
