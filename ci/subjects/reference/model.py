"""The decoder's forward pass over Fast-LLM's parameters: embeddings, blocks, head. Functions without state.

Casts are where transformers has them, so that low precision gives the same errors: norms in float32 and back, rotary
tables in float32 and then cast, softmax in float32, residuals in the model's dtype. In float64 everything except the
rotary tables is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, linear, relu, silu

from ci.errors import RequestError
from ci.subjects.forward import sort_by_score
from ci.subjects.reference.attention import ATTENTION, AttentionMask, ImplementationLog
from ci.subjects.reference.config import Architecture, Attention, Block, GatedDeltaNet, Mamba, Mlp, StochasticMixer
from ci.subjects.reference.delta_mixers import run_gated_delta_net, run_kimi_delta_attention
from ci.subjects.reference.mamba import run_mamba
from ci.subjects.reference.moe import MOE, Experts, Routing, route
from ci.subjects.reference.rope import apply_rotary, rotary_tables
from ci.subjects.reference.transposed_linear import transposed_linear
from ci.subjects.reference.vision import cut_patches, locate_patches, place_features
from ci.subjects.reference.weight_names import (
    EMBEDDINGS_WEIGHT,
    FINAL_NORM_WEIGHT,
    HEAD_WEIGHT,
    PATCH_NORM_WEIGHT,
    PATCH_WEIGHT,
    name_prediction_block,
    name_prediction_norm,
)
from ci.tensor_names import (
    CONTEXT,
    FINAL_NORM,
    KEY,
    LOGITS,
    MIXER,
    MIXER_RESIDUAL,
    MLP,
    MLP_DENSE,
    MLP_ROUTED,
    NORM_1,
    NORM_2,
    PATCHES,
    PREDICTION_BLOCK,
    PROJECTOR,
    QUERY,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    VALUE,
    VISION_NORM,
    block_name,
    prediction_head_name,
    vision_block_name,
)

if TYPE_CHECKING:
    from ci.subjects.forward import Inputs
    from ci.subjects.image_trace import ImageRecorder
    from ci.subjects.images import Images
    from ci.subjects.reference.config import Activation, VisionTower

RecordTensor = Callable[[str, Tensor], None]
"""Is called with each named tensor of the forward pass as it is computed."""

ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = {
    "silu": silu,
    "gelu": lambda x: gelu(x, approximate="tanh"),
    "relu": relu,
}


PROJECTOR_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    **{str(name): function for name, function in ACTIVATIONS.items()},
    "gelu_exact": gelu,
}


@dataclass(frozen=True)
class Context:
    """What every block of one forward pass shares: positions and documents (B, T), and the implementations.

    `mixer` names the one that runs in every stochastic mixer; empty: the main one.
    """

    positions: Tensor
    documents: Tensor | None = None
    attention: str = "eager"
    moe: str = "looped"
    mixer: str = ""
    ran: ImplementationLog = field(default_factory=ImplementationLog)


@dataclass(frozen=True)
class Model:
    """An architecture and its parameters by Fast-LLM's names, all of one dtype and on one device."""

    architecture: Architecture
    weights: Mapping[str, Tensor]

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (B, T, hidden) of token ids (B, T); their scale is rounded to the model's dtype."""
        embeddings = embedding(ids, self.weights[EMBEDDINGS_WEIGHT])
        scale = self.architecture.embedding_scale
        return embeddings if scale == 1 else embeddings * torch.tensor(scale, dtype=torch.float64).to(embeddings)

    def embed_all(self, inputs: Inputs, context: Context, recorder: ImageRecorder | None = None) -> Tensor:
        """Return the embeddings (B, T, hidden) of tokens and, at the image tokens, of images.

        Raises RequestError where images and image tokens do not match.
        """
        embeddings = self.embed(inputs.ids)
        if inputs.images is None:
            return embeddings
        features = self.run_vision(inputs.images, context, recorder)
        return place_features(embeddings, inputs.ids, self.architecture.image_token, features)

    def run_vision(self, images: Images, context: Context, recorder: ImageRecorder | None = None) -> Tensor:
        """Return the features (patches, hidden) of all images: each image attends to itself alone."""
        vision = self.architecture.vision
        if vision is None:
            raise RequestError("the inputs have images, but the model has no vision tower")
        positions, numbers = locate_patches(images, vision.patch)
        record, follow = (_ignore, _keep) if recorder is None else (_unbatch(recorder.record), recorder.follow)
        patches = linear(cut_patches(images, vision.patch).to(self.weights[PATCH_WEIGHT]), self.weights[PATCH_WEIGHT])
        record(PATCHES, patches[None])
        hidden = follow(VISION_NORM, rms_norm(patches, self.weights[PATCH_NORM_WEIGHT], vision.epsilon))
        seen = replace(context, positions=positions, documents=numbers)
        for index, block in enumerate(vision.blocks):
            name = vision_block_name(index)
            hidden = follow(name, self._run_named_block(name, block, hidden[None], seen, record)[0])
        return follow(PROJECTOR, self._project(vision, hidden))

    def _project(self, vision: VisionTower, hidden: Tensor) -> Tensor:
        """Return what the projector makes of a tower's output."""
        inner = PROJECTOR_ACTIVATIONS[vision.projector](self._linear(f"{PROJECTOR}.layer_1", hidden))
        output = transposed_linear(inner, self.weights[f"{PROJECTOR}.layer_2.weight"])
        return output + self.weights[f"{PROJECTOR}.layer_2.bias"] if vision.projector_bias else output

    def run_block(self, index: int, hidden: Tensor, context: Context, record: RecordTensor) -> Tensor:
        """Run block `index` over (B, T, hidden).

        `record` gets its tensors by their names in a trace.
        """
        hidden = self._run_named_block(block_name(index), self.architecture.blocks[index], hidden, context, record)
        record(block_name(index), hidden)
        return hidden

    def _run_named_block(
        self, name: str, block: Block, hidden: Tensor, context: Context, record: RecordTensor
    ) -> Tensor:
        """Run a block whose weights, and whose tensors in a trace, begin with `name`."""
        normed = self._norm(f"{name}.norm_1", hidden, block.epsilon)
        record(f"{name}.{NORM_1}", normed)
        mixed = self._mix(name, block, normed, context, record)
        record(f"{name}.{MIXER}", mixed)
        hidden = hidden + (self._norm(f"{name}.post_mixer_norm", mixed, block.epsilon) if block.post_norms else mixed)
        record(f"{name}.{MIXER_RESIDUAL}", hidden)
        branch = self._feed_forward if block.routed is None else self._two_branches
        output = branch(name, block, hidden, context, record)
        record(f"{name}.{MLP}", output)
        hidden = hidden + (self._norm(f"{name}.post_mlp_norm", output, block.epsilon) if block.post_norms else output)
        return hidden * self.weights[f"{name}.output_scale"] if block.output_scale else hidden

    def run_prediction_heads(self, hidden: Tensor, context: Context, record: RecordTensor) -> list[Tensor]:
        """Run every prediction head after the first on the last block's input (B, T, hidden); return their logits."""
        logits = []
        for head in range(1, self.architecture.prediction_heads):
            name, block = name_prediction_block(head), self.architecture.blocks[-1]
            output = self._run_named_block(name, block, hidden, context, _ignore)
            record(prediction_head_name(head, PREDICTION_BLOCK), output)
            named = partial(_record_head, record, head)
            logits.append(self._read_logits(name_prediction_norm(head), output, named))
        return logits

    def run_head(self, hidden: Tensor, record: RecordTensor) -> Tensor:
        """Return the logits (B, T, vocabulary) of the final norm of (B, T, hidden)."""
        return self._read_logits(FINAL_NORM_WEIGHT, hidden, record)

    def _read_logits(self, norm: str, hidden: Tensor, record: RecordTensor) -> Tensor:
        normed = rms_norm(hidden, self.weights[norm], self.architecture.epsilon)
        record(FINAL_NORM, normed)
        logits = linear(normed, self.weights[EMBEDDINGS_WEIGHT if self.architecture.tied else HEAD_WEIGHT])
        if (cap := self.architecture.softcap) is not None:
            logits = torch.tanh(logits / cap) * cap
        record(LOGITS, logits)
        return logits

    def _norm(self, name: str, hidden: Tensor, epsilon: float) -> Tensor:
        return rms_norm(hidden, self.weights[f"{name}.weight"], epsilon)

    def _linear(self, name: str, tensor: Tensor) -> Tensor:
        return linear(tensor, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _project_output(self, name: str, mixed: Tensor) -> Tensor:
        return self._linear(name, mixed)

    def _enter(self, tensor: Tensor) -> Tensor:
        """Begin what tensor-parallel ranks compute in parts; one process computes all of it."""
        return tensor

    def _leave(self, tensor: Tensor) -> Tensor:
        """End it: tensor-parallel ranks sum their parts; one process has the sum."""
        return tensor

    def _mix(self, name: str, block: Block, normed: Tensor, context: Context, record: RecordTensor) -> Tensor:
        """Run the block's mixer: of a stochastic one, that of the context."""
        mixer, path = block.mixer, f"{name}.mixer"
        if isinstance(mixer, StochasticMixer):
            chosen, mixer = mixer.choose(context.mixer)
            context.ran.add("mixer", chosen)
            path = f"{path}.mixers.{chosen}"
        named = partial(_record_operation, record, name)
        if isinstance(mixer, Attention):
            return self._attention(path, mixer, normed, context, named)
        arguments = normed, context.documents, lambda end: self.weights[f"{path}.{end}"], named
        if isinstance(mixer, GatedDeltaNet):
            return run_gated_delta_net(mixer, *arguments)
        if isinstance(mixer, Mamba):
            return run_mamba(mixer, *arguments)
        return run_kimi_delta_attention(mixer, *arguments)

    def _attention(
        self, name: str, attention: Attention, normed: Tensor, context: Context, record: RecordTensor
    ) -> Tensor:
        batch, length, _ = normed.shape
        normed = self._enter(normed)
        query = self._linear(f"{name}.query", normed).view(batch, length, attention.heads, -1)
        key_value = self._linear(f"{name}.key_value", normed).view(batch, length, -1, attention.head_dim)
        key, value = (key_value, key_value) if attention.shared_key_value else key_value.chunk(2, dim=2)
        if (epsilon := attention.norm_epsilon) is not None:
            query = self._norm(f"{name}.query_norm", query, epsilon)
            key = self._norm(f"{name}.key_norm", key, epsilon)
            value = rms_norm(value, None, epsilon)
        cos, sin = rotary_tables(attention.rope, attention.head_dim, context.positions, normed.dtype)
        query, key = apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)
        for operation, tensor in ((QUERY, query), (KEY, key), (VALUE, value)):
            record(operation, tensor)
        mask = AttentionMask(context.documents, attention.window, attention.scale_power, attention.causal)
        mixed = ATTENTION[context.attention](query, key, value, mask, context.ran)
        record(CONTEXT, mixed)
        return self._project_output(f"{name}.dense", mixed)

    def _feed_forward(self, name: str, block: Block, hidden: Tensor, context: Context, record: RecordTensor) -> Tensor:
        normed = self._norm(f"{name}.norm_2", hidden, block.epsilon)
        record(f"{name}.{NORM_2}", normed)
        if block.mlp.experts is None:
            return self._mlp(f"{name}.mlp", block.mlp, normed)
        tokens = normed.flatten(0, 1)
        routing = route(tokens, self.weights[f"{name}.mlp.router.weight"], block.mlp.experts_per_token or 0)
        _record_routing(name, routing, record)
        return self._mixture(f"{name}.mlp", block.mlp, tokens, routing, context).view_as(normed)

    def _two_branches(
        self, block_path: str, block: Block, hidden: Tensor, context: Context, record: RecordTensor
    ) -> Tensor:
        """Run a dense MLP and experts on the same residual, each with its own norms, and add them.

        transformers, modeling_gemma4.py, `Gemma4TextDecoderLayer`.
        """
        name, epsilon = f"{block_path}.mlp", block.epsilon
        dense = self._norm(f"{name}.dense.pre_norm", hidden, epsilon)
        dense = self._norm(f"{name}.dense.post_norm", self._mlp(f"{name}.dense", block.mlp, dense), epsilon)
        assert block.routed is not None  # noqa: S101 (narrowing only)
        routing = self._route_scaled(f"{name}.routed", block.routed, hidden.flatten(0, 1), epsilon)
        _record_routing(block_path, routing, record)
        record(f"{block_path}.{MLP_DENSE}", dense)
        tokens = self._norm(f"{name}.routed.pre_norm", hidden, epsilon).flatten(0, 1)
        routed = self._mixture(f"{name}.routed", block.routed, tokens, routing, context).view_as(hidden)
        routed = self._norm(f"{name}.routed.post_norm", routed, epsilon)
        record(f"{block_path}.{MLP_ROUTED}", routed)
        return dense + routed

    def _route_scaled(self, name: str, mlp: Mlp, tokens: Tensor, epsilon: float) -> Routing:
        """Route normalized and scaled tokens; each expert's scores have a learned factor.

        transformers, modeling_gemma4.py, `Gemma4TextRouter`.
        """
        tokens = rms_norm(tokens, None, epsilon) * self.weights[f"{name}.router_scale"] * tokens.shape[-1] ** -0.5
        routing = route(tokens, self.weights[f"{name}.router.weight"], mlp.experts_per_token or 0)
        scores = routing.scores * self.weights[f"{name}.router_per_expert_scale"][routing.experts]
        experts, scores = sort_by_score(routing.experts, scores)  # the factors may change the order
        return replace(routing, experts=experts, scores=scores)

    def _mlp(self, name: str, mlp: Mlp, normed: Tensor) -> Tensor:
        gate, up = self._linear(f"{name}.layer_1", self._enter(normed)).chunk(2, dim=-1)
        activated = ACTIVATIONS[mlp.activation](gate) * up
        output = self._leave(transposed_linear(activated, self.weights[f"{name}.layer_2.weight"]))
        return output + self.weights[f"{name}.layer_2.bias"] if mlp.bias else output

    def _mixture(self, name: str, mlp: Mlp, tokens: Tensor, routing: Routing, context: Context) -> Tensor:
        """Run the experts over tokens (N, hidden)."""
        count = mlp.experts or 0
        experts = Experts(
            gate_up=self.weights[f"{name}.layer_1.weight"].view(count, -1, tokens.shape[1]),
            down=self.weights[f"{name}.layer_2.weight"].view(count, -1, tokens.shape[1]),
            activation=ACTIVATIONS[mlp.activation],
        )
        routing = replace(routing, scores=self._enter(routing.scores))
        return self._leave(MOE[context.moe](self._enter(tokens), routing, experts, context.ran))


def _record_operation(record: RecordTensor, block: str, operation: str, tensor: Tensor) -> None:
    record(f"{block}.{operation}", tensor)


def _record_head(record: RecordTensor, head: int, operation: str, tensor: Tensor) -> None:
    record(prediction_head_name(head, operation), tensor)


def _ignore(name: str, tensor: Tensor) -> None:
    """Record nothing: what a prediction head's block computes inside has no name in a trace."""


def _keep(_: str, tensor: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return tensor


def _unbatch(record: RecordTensor) -> RecordTensor:
    """Return a function that records (1, patches, …) as (patches, …)."""
    return lambda name, tensor: record(name, tensor[0])


def _record_routing(block: str, routing: Routing, record: RecordTensor) -> None:
    for operation, tensor in (
        (ROUTER_LOGITS, routing.logits),
        (TOP_EXPERTS, routing.experts),
        (ROUTER_SCORES, routing.scores),
    ):
        record(f"{block}.{operation}", tensor)


def rms_norm(hidden: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    """Normalize by the root mean square, in float32 at least: https://arxiv.org/abs/1910.07467.

    The result is cast back before it is multiplied by the weight, as in Llama; None: there is no weight.
    """
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    normed = wide.to(hidden.dtype)
    return normed if weight is None else weight * normed
