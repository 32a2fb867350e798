"""Injection of the same bug into Hugging Face: functions of the reference replace those of transformers.

A bug counts only if Hugging Face's logits change when it is injected there. The replaced functions look up the
reference's function when they are called, so that they run the patched one while a patch is in place.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.mutation.injection import HEAD, CurrentLayer, Mutation
from ci.subjects.forward import Inputs, read_inputs
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.structure import find_decoder_blocks
from ci.subjects.reference.attention import ATTENTION, AttentionMask, ImplementationLog
from ci.subjects.reference.config import Architecture
from ci.subjects.reference.moe import MOE, Experts, Routing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from ci.subjects.base import TraceRequest, TraceResult

reference: Any = import_module("ci.subjects.reference.model")


@dataclass
class HFInjection:
    """What a replaced function needs to know: the mutation, the architecture and the inputs of the run."""

    mutation: Mutation
    architecture: Architecture
    inputs: Inputs | None = None

    @property
    def documents(self) -> Tensor | None:
        """Document numbers (B, T), as the reference gives them to its attention."""
        return None if self.inputs is None else self.inputs.mask

    def positions(self, length: int) -> Tensor:
        """Return the positions in the document, (B or 1, T)."""
        positions = self.inputs.position_ids() if self.inputs else None
        return torch.arange(length)[None] if positions is None else positions


@dataclass
class MutantHuggingFace(HuggingFace):
    """Hugging Face whose functions named in `injection.mutation.hf_targets` are those of the reference."""

    injection: HFInjection = field(kw_only=True)

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run Hugging Face's forward pass with the patches in place."""
        self.injection.inputs = read_inputs(Path(request.inputs))
        with self.injection.mutation.injected():
            return super().trace(request)

    def _from_pretrained(self, request: TraceRequest) -> Any:
        model = super()._from_pretrained(request)
        _track_current_layer(model)
        for target in self.injection.mutation.hf_targets:
            HF_INJECTORS[target](model, self.injection)
        return model


def _track_current_layer(model: Any) -> None:
    for index, block in enumerate(find_decoder_blocks(model)):
        block.register_forward_pre_hook(lambda *_, index=index: setattr(CurrentLayer, "index", index))
    model.model.norm.register_forward_pre_hook(lambda *_: setattr(CurrentLayer, "index", HEAD))


def _blocks(model: Any) -> list[Any]:
    return list(find_decoder_blocks(model))


def _embed(model: Any, _: HFInjection) -> None:
    table = model.get_input_embeddings()
    table.forward = lambda ids: reference.embedding(ids, table.weight)


def _norm(model: Any, _: HFInjection) -> None:
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = lambda hidden, m=module: reference.rms_norm(hidden, m.weight, m.variance_epsilon)


def _linear(model: Any, _: HFInjection) -> None:
    for block in _blocks(model):
        attention = block.self_attn
        for module in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
            module.forward = lambda x, m=module: reference.linear(x, m.weight, m.bias)


def _head(model: Any, _: HFInjection) -> None:
    head = model.get_output_embeddings()
    head.forward = lambda hidden: reference.linear(hidden, head.weight)


def _activation(model: Any, _: HFInjection) -> None:
    for module in model.modules():
        if hasattr(module, "act_fn"):
            del module.act_fn
            module.act_fn = lambda x: reference.ACTIVATIONS["silu"](x)


def _attention(model: Any, injection: HFInjection) -> None:
    name = injection.mutation.variant.get("attention", "eager")

    def run(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        window = injection.architecture.blocks[module.layer_idx].attention.window
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        mixed = ATTENTION[name](query, key, value, AttentionMask(injection.documents, window), ImplementationLog())
        return mixed.reshape(*query.shape[:3], -1), None

    _replace_global(model, "eager_attention_forward", run)


def _rope(model: Any, injection: HFInjection) -> None:
    def run(query: Tensor, key: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        attention = injection.architecture.blocks[CurrentLayer.index or 0].attention
        positions = injection.positions(query.shape[2])
        cos, sin = reference.rotary_tables(attention.rope, attention.head_dim, positions, query.dtype)
        rotated = (reference.apply_rotary(tensor.transpose(1, 2), cos, sin).transpose(1, 2) for tensor in (query, key))
        return tuple(rotated)

    _replace_global(model, "apply_rotary_pos_emb", run)


def _route(model: Any, _: HFInjection) -> None:
    for block in _blocks(model):

        def forward(hidden: Tensor, gate: Any = block.mlp.gate) -> tuple[Tensor, Tensor, Tensor]:
            routing = reference.route(hidden.reshape(-1, hidden.shape[-1]), gate.weight, gate.top_k)
            return routing.logits, routing.scores, routing.experts

        block.mlp.gate.forward = forward


def _moe(model: Any, injection: HFInjection) -> None:
    name = injection.mutation.variant.get("moe", "looped")
    for block in _blocks(model):

        def forward(tokens: Tensor, chosen: Tensor, scores: Tensor, held: Any = block.mlp.experts) -> Tensor:
            experts = Experts(held.gate_up_proj, held.down_proj.transpose(1, 2), held.act_fn)
            return MOE[name](tokens, Routing(scores, chosen, scores), experts, ImplementationLog())

        block.mlp.experts.forward = forward


HF_INJECTORS: dict[str, Callable[[Any, HFInjection], None]] = {
    "embed": _embed,
    "norm": _norm,
    "linear": _linear,
    "head": _head,
    "activation": _activation,
    "attention": _attention,
    "rope": _rope,
    "route": _route,
    "moe": _moe,
}
_ORIGINALS: dict[tuple[str, str], Any] = {}


def _replace_global(model: Any, name: str, function: Any) -> None:
    """Replace a function of the module that defines the model's class, until `transformers_restored` ends."""
    module = sys.modules[type(model).__module__]
    _ORIGINALS.setdefault((module.__name__, name), getattr(module, name))
    setattr(module, name, function)


@contextmanager
def transformers_restored() -> Iterator[None]:
    """Restore the replaced functions of transformers at the end of the `with` block."""
    with ExitStack() as stack:
        stack.callback(_restore_transformers)
        yield


def _restore_transformers() -> None:
    for (module, name), original in _ORIGINALS.items():
        setattr(sys.modules[module], name, original)
    _ORIGINALS.clear()
    CurrentLayer.index = None
