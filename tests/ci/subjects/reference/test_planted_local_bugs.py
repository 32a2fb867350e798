"""Bugs in one layer, one expert, one head or one rounding of a special path: each shows first where it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.reference.config import ProportionalRope
from ci.subjects.reference.moe import Routing
from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT, HEAD_WEIGHT
from ci.tensor_names import (
    BETA,
    CONTEXT,
    DECAY,
    EMBEDDINGS,
    FINAL_NORM,
    IMAGE_EMBEDDINGS,
    KEY,
    LOGITS,
    MIXER,
    MLP,
    NORM_1,
    PATCHES,
    PREDICTION_BLOCK,
    PROJECTOR,
    QUERY,
    RECURRENCE,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    STEP,
    TOP_EXPERTS,
    operation_of,
    prediction_head_name,
)
from tests.ci.subjects.reference.planting import (
    Plant,
    PlantedBug,
    argument,
    exchange,
    find_first_wrong,
    find_planted,
    in_function,
    in_weights,
    of_path,
    result,
    weights,
)
from tests.standin.recipes import PIXTRAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ci.subjects.reference.model import Model
    from tests.ci.subjects.reference.conftest import ModelFactory

LIMIT = 4e-6
"""The largest error of a right model is below 3e-6; what a bug does is above."""
BIASES, YARN, NEMO, WINDOW, QWEN2 = "llama-biases", "llama-yarn", "mistral", "mistral-window", "qwen2-sliding"
MIXTRAL, GEMMA4, NET, KDA = "mixtral-null-head-dim", "gemma4-experts", "apriel2-stochastic", "apriel2-sigmoid"
MAMBA, HYBRID, MTP, DREAM, SEEING = "apriel2-mamba", "apriel-hybrid", "mtp", "dream", "llava"
EXPERTS, LAYERS = 8, 3
CHUNK = 64
"""Tokens of a chunk in most kernels of linear attention."""
HEAD_NORM = "multi_token_prediction.heads.{}.final_norm.weight"
ONES, ZEROS = torch.ones_like, torch.zeros_like


def in_block(index: int, change: Callable[[Any], Any]) -> Plant:
    """A bug of one block's description."""

    def plant(right: Model) -> Model:
        blocks = [*right.architecture.blocks]
        blocks[index] = change(blocks[index])
        return replace(right, architecture=replace(right.architecture, blocks=tuple(blocks)))

    return in_weights(plant)


def in_mixer(index: int, **changed: Any) -> Plant:
    """A bug of one block's mixer."""
    return in_block(index, lambda block: replace(block, mixer=replace(block.mixer, **changed)))


def in_tower(change: Callable[[Any], Any]) -> Plant:
    """A bug of every block of the vision tower."""

    def plant(right: Model) -> Model:
        tower = right.architecture.vision
        assert tower is not None
        tower = replace(tower, blocks=tuple(map(change, tower.blocks)))
        return replace(right, architecture=replace(right.architecture, vision=tower))

    return in_weights(plant)


def round_to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Round to a dtype of less precision and back."""
    return lambda tensor: tensor.to(dtype).to(tensor.dtype)


def in_expert(number: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of one expert's part of a weight."""

    def changed(weight: Tensor) -> Tensor:
        parts = [*weight.chunk(EXPERTS)]
        parts[number] = change(parts[number])
        return torch.cat(parts)

    return changed


def swap_halves(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def with_row(number: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of one row of a weight."""

    def changed(weight: Tensor) -> Tensor:
        wrong = weight.clone()
        wrong[number] = change(weight[number])
        return wrong

    return changed


def epsilon_outside(_: Any) -> Any:
    """An RMSNorm that adds epsilon to the root, not below it."""

    def wrong(hidden: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
        normed = hidden / (hidden.pow(2).mean(-1, keepdim=True).sqrt() + epsilon)
        return normed if weight is None else normed * weight

    return wrong


def tile_heads(split: Any) -> Any:
    """Heads of keys and values in the order 0 1 2 0 1 2, not 0 0 1 1 2 2."""

    def wrong(query: Tensor, key: Tensor, value: Tensor) -> Any:
        group = query.shape[2] // key.shape[2]
        return split(query, key.repeat(1, 1, group, 1), value.repeat(1, 1, group, 1))

    return wrong


def rotate_pairs(_: Any) -> Any:
    """RoPE over neighbouring dimensions, as in GPT-J, not over halves."""

    def wrong(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = tensor[..., 0::2], tensor[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)

    return wrong


def add_sink(attend: Any) -> Any:
    """A softmax whose denominator has one more term of score 0."""

    def wrong(query: Tensor, key: Tensor, value: Tensor, mask: Any, ran: Any) -> Tensor:
        context: Tensor = attend(query, key, value, mask, ran)
        scores = torch.einsum("bthd,bshd->bhts", query, key.repeat_interleave(query.shape[2] // key.shape[2], 2))
        allowed = mask.to_matrix(range(query.shape[1]), range(query.shape[1]), query.device)
        total = (scores * mask.compute_scale(query.shape[3])).masked_fill(~allowed, float("-inf")).logsumexp(-1)
        share = torch.sigmoid(total).transpose(1, 2)
        return (context.view(*query.shape) * share[..., None]).flatten(-2)

    return wrong


def correct_choice(route: Any) -> Any:
    """Experts are chosen by scores with a correction of each expert, as in DeepSeek-V3."""

    def wrong(tokens: Tensor, router: Tensor, per_token: int) -> Routing:
        right: Routing = route(tokens, router, per_token)
        scores = right.logits.softmax(-1)
        chosen = (scores + torch.linspace(0, 0.1, len(router))).topk(per_token, dim=-1).indices
        kept = scores.gather(-1, chosen)
        return Routing(right.logits, chosen, kept / kept.sum(-1, keepdim=True))

    return wrong


def score_by_sigmoid(route: Any) -> Any:
    """The scores of the chosen experts are sigmoids, divided by their sum."""

    def wrong(*args: Any) -> Routing:
        right: Routing = route(*args)
        kept = right.logits.gather(-1, right.experts).sigmoid()
        return replace(right, scores=kept / kept.sum(-1, keepdim=True))

    return wrong


def drop_last_choice(routing: Routing) -> Routing:
    """The last expert of each token does not run."""
    scores = routing.scores.clone()
    scores[:, -1] = 0
    return replace(routing, scores=scores)


def limit_capacity(routing: Routing) -> Routing:
    """Each expert runs as many tokens as are an even share for it, and drops the others."""
    capacity, scores = routing.experts.numel() // EXPERTS, routing.scores.clone()
    for expert in range(EXPERTS):
        token, slot = (routing.experts == expert).nonzero(as_tuple=True)
        scores[token[capacity:], slot[capacity:]] = 0
    return replace(routing, scores=scores)


def rotate_more(block: Any) -> Any:
    """One frequency more of a proportional RoPE rotates."""
    rope = block.mixer.rope
    if not isinstance(rope, ProportionalRope):
        return block
    share = rope.partial_rotary_factor + 2 / block.mixer.head_dim
    return replace(block, mixer=replace(block.mixer, rope=replace(rope, partial_rotary_factor=share)))


def factors_of_logits(route: Any) -> Any:
    """The factors of the experts multiply the router's logits, not its scores."""

    def wrong(self: Any, name: str, mlp: Any, tokens: Tensor, epsilon: float) -> Routing:
        factor, router = f"{name}.router_per_expert_scale", f"{name}.router.weight"
        scaled = {router: self.weights[router] * self.weights[factor][:, None], factor: ONES(self.weights[factor])}
        return route(replace(self, weights={**self.weights, **scaled}), name, mlp, tokens, epsilon)  # type: ignore[no-any-return]

    return wrong


def cap_before_scale(read: Any) -> Any:
    """The logits are capped before they are divided by the cap."""

    def wrong(self: Any, norm: str, hidden: Tensor, record: Any) -> Tensor:
        def keep(name: str, tensor: Tensor) -> None:
            record(name, torch.tanh(torch.atanh(tensor / cap) * cap) * cap if name == LOGITS else tensor)

        cap = self.architecture.softcap
        return read(self, norm, hidden, keep)  # type: ignore[no-any-return]

    return wrong


def forget_at_chunks(find: Any) -> Any:
    """The state is not carried from one chunk of tokens into the next one."""

    def wrong(documents: Any, like: Tensor) -> Tensor:
        starts: Tensor = find(documents, like)
        return starts | (torch.arange(starts.shape[1]) % CHUNK == 0)

    return wrong


def repeat_first(shift: Any) -> Any:
    """Before its document a convolution reads the first token of the row, not zeros."""

    def wrong(tensor: Tensor, documents: Any, back: int) -> Tensor:
        shifted: Tensor = shift(tensor, documents, back)
        return torch.where((shifted == 0).all(-1, keepdim=True), tensor[:, :1], shifted)

    return wrong


def bias_after_softplus(_: Any) -> Any:
    def wrong(tensor: Tensor, a_log: Tensor, bias: Tensor) -> Tensor:
        return -a_log.exp() * (torch.nn.functional.softplus(tensor) + bias)

    return wrong


def chain_heads(run: Any) -> Any:
    """Each further head reads what the head before it computed, as DeepSeek-V3's do."""

    def wrong(self: Any, hidden: Tensor, context: Any, record: Any) -> Any:
        inner = self._run_named_block
        blocks: list[Tensor] = []

        def chained(name: str, block: Any, before: Tensor, *rest: Any) -> Tensor:
            blocks.append(inner(name, block, blocks[-1] if blocks else before, *rest))
            return blocks[-1]

        object.__setattr__(self, "_run_named_block", chained)
        try:
            return run(self, hidden, context, record)
        finally:
            object.__delattr__(self, "_run_named_block")

    return wrong


def add_features(place: Any) -> Any:
    """Features are added to the embeddings of the image tokens."""

    def wrong(embeddings: Tensor, ids: Tensor, token: int, features: Tensor) -> Tensor:
        placed: Tensor = place(embeddings, ids, token, features)
        return torch.where((ids == token)[..., None], placed + embeddings, placed)

    return wrong


def one_position_an_image(make_context: Any) -> Any:
    """All tokens of an image have one position, as in Qwen2-VL."""

    def wrong(request: Any, checkpoint: Any, inputs: Any) -> Any:
        context = make_context(request, checkpoint, inputs)
        seen = inputs.ids == PIXTRAL["image_token_index"]
        inside = torch.zeros_like(seen)
        inside[:, 1:] = seen[:, 1:] & seen[:, :-1]
        return replace(context, positions=context.positions - inside.cumsum(-1))

    return wrong


def activate_last(_: Any) -> Any:
    """The projector's activation is behind its second layer."""

    def wrong(self: Any, vision: Any, hidden: Tensor) -> Tensor:
        inner, weights_ = self._linear("vision_encoder.adapter.layer_1", hidden), self.weights
        output = (
            inner @ weights_["vision_encoder.adapter.layer_2.weight"] + weights_["vision_encoder.adapter.layer_2.bias"]
        )
        return torch.nn.functional.gelu(output)

    return wrong


def turn_patches(patches: Tensor) -> Tensor:
    """The values of a patch are in the order of columns."""
    side = PIXTRAL["vision_config"]["patch_size"]  # type: ignore[index]
    return patches.view(len(patches), 3, side, side).transpose(-1, -2).flatten(1)


BUGS = [
    *of_path(
        "plain layers: norms, weights, roundings",
        PlantedBug(NEMO, "epsilon outside of the root", in_function("model.rms_norm", epsilon_outside), NORM_1),
        PlantedBug(NEMO, "another epsilon in the last layer", in_block(-1, lambda b: replace(b, epsilon=1e-4)), NORM_1),
        PlantedBug(
            BIASES, "one weight through bfloat16", weights("1.mixer.query.weight", round_to(torch.bfloat16)), QUERY
        ),
        PlantedBug(
            BIASES,
            "one row of a weight through float8",
            weights("2.mlp.layer_2.weight", with_row(5, round_to(torch.float8_e4m3fn))),
            MLP,
        ),
        PlantedBug(BIASES, "a square weight transposed", weights("1.mixer.dense.weight", lambda w: w.T), MIXER),
        PlantedBug(BIASES, "the MLP's bias counts twice", weights("mlp.layer_2.bias", lambda b: 2 * b), MLP),
        PlantedBug(BIASES, "no embedding of the last id", weights(EMBEDDINGS_WEIGHT, with_row(330, ZEROS)), EMBEDDINGS),
        PlantedBug(BIASES, "no last row of the head", weights(HEAD_WEIGHT, with_row(-1, ZEROS)), LOGITS),
        PlantedBug(
            BIASES,
            "blocks through bfloat16",
            result("model.Model._run_named_block", round_to(torch.bfloat16)),
            "",
        ),
    ),
    *of_path(
        "plain layers: attention, RoPE",
        PlantedBug(NEMO, "heads of keys tiled", in_function("attention._split_heads", tile_heads), CONTEXT),
        PlantedBug(NEMO, "one layer sees what follows", in_mixer(1, causal=False), CONTEXT),
        PlantedBug(NEMO, "a scale off by 3e-4", in_mixer(2, scale_power=0.5001), CONTEXT),
        PlantedBug(
            NEMO,
            "an attention sink",
            in_function("model.ATTENTION", lambda named: {**named, "eager": add_sink(named["eager"])}),
            CONTEXT,
        ),
        PlantedBug(NEMO, "RoPE of neighbours", in_function("model.apply_rotary", rotate_pairs), QUERY),
        PlantedBug(
            NEMO,
            "frequencies through bfloat16",
            result("rope.compute_frequencies", lambda r: (round_to(torch.bfloat16)(r[0]), r[1])),
            QUERY,
        ),
        PlantedBug(
            NEMO,
            "angles through bfloat16",
            result("model.rotary_tables", lambda r: tuple(map(round_to(torch.bfloat16), r))),
            QUERY,
        ),
        PlantedBug(
            YARN,
            "no attention factor",
            in_block(1, lambda b: replace(b, mixer=replace(b.mixer, rope=replace(b.mixer.rope, attention_factor=1.0)))),
            QUERY,
        ),
        PlantedBug(WINDOW, "a window of one less in the last layer", in_mixer(-1, window=19), CONTEXT),
        PlantedBug(QWEN2, "no bias of keys in the last layer", weights("2.mixer.key_value.bias", ZEROS), KEY),
    ),
    *of_path(
        "Mixtral: one expert, choices and scores",
        PlantedBug(
            MIXTRAL, "gate and up of one expert", weights("1.mlp.layer_1.weight", in_expert(3, swap_halves)), MLP
        ),
        PlantedBug(
            MIXTRAL,
            "the channels of one expert in another order",
            weights("2.mlp.layer_2.weight", in_expert(1, lambda w: w.roll(1, 0))),
            MLP,
        ),
        PlantedBug(MIXTRAL, "a corrected choice", in_function("model.route", correct_choice), TOP_EXPERTS),
        PlantedBug(MIXTRAL, "scores by sigmoid", in_function("model.route", score_by_sigmoid), ROUTER_SCORES),
        PlantedBug(MIXTRAL, "one expert fewer runs", argument("model.Model._mixture", 4, drop_last_choice), MLP),
        PlantedBug(MIXTRAL, "a limited capacity", argument("model.Model._mixture", 4, limit_capacity), MLP),
        PlantedBug(
            MIXTRAL,
            "a router through bfloat16",
            weights("1.mlp.router.weight", round_to(torch.bfloat16)),
            ROUTER_LOGITS,
        ),
    ),
    *of_path(
        "Gemma 4: one layer, order of operations",
        PlantedBug(GEMMA4, "no scalar of the last layer", weights("2.output_scale", ONES), ""),
        PlantedBug(GEMMA4, "one frequency more rotates", in_block(-1, rotate_more), QUERY),
        PlantedBug(GEMMA4, "a window of one less", in_mixer(1, window=19), CONTEXT),
        PlantedBug(
            GEMMA4,
            "a rounded scale of the embeddings",
            in_weights(lambda m: replace(m, architecture=replace(m.architecture, embedding_scale=9.8125))),
            EMBEDDINGS,
        ),
        PlantedBug(
            GEMMA4, "factors of the logits", in_function("model.Model._route_scaled", factors_of_logits), ROUTER_LOGITS
        ),
        PlantedBug(GEMMA4, "capped before scaled", in_function("model.Model._read_logits", cap_before_scale), LOGITS),
    ),
    *of_path(
        "delta rules: chunks, gates, epsilons",
        PlantedBug(
            NET,
            "the state ends with a chunk",
            in_function("delta_rule.find_document_starts", forget_at_chunks),
            RECURRENCE,
        ),
        PlantedBug(NET, "the first token repeated", in_function("delta_rule.shift_tokens", repeat_first), QUERY),
        PlantedBug(
            NET, "a gate of sigmoid", in_function("delta_rule.GATES", lambda g: dict.fromkeys(g, g["sigmoid"])), CONTEXT
        ),
        PlantedBug(NET, "one more than the norm's weight", weights("gdn.norm.weight", lambda w: w + 1), CONTEXT),
        PlantedBug(
            NET, "the bias after the softplus", in_function("delta_mixers.compute_decay", bias_after_softplus), DECAY
        ),
        PlantedBug(KDA, "twice the beta", argument("delta_mixers._recur", 4, lambda b: 2 * b), BETA),
        PlantedBug(KDA, "another epsilon of the norm", in_mixer(-1, epsilon=1e-5), CONTEXT),
        PlantedBug(
            KDA, "another epsilon of unit lengths", in_function("delta_rule.L2_EPSILON", lambda _: 1e-5), RECURRENCE
        ),
    ),
    *of_path(
        "Mamba: chunks, limits, roundings",
        PlantedBug(
            MAMBA, "the state ends with a chunk", in_function("mamba.find_document_starts", forget_at_chunks), CONTEXT
        ),
        PlantedBug(
            MAMBA,
            "limited steps",
            in_function("mamba.softplus", lambda right: lambda t: right(t).clamp(0.001, 0.1)),
            STEP,
        ),
        PlantedBug(HYBRID, "decays through bfloat16", weights("A_log", round_to(torch.bfloat16)), CONTEXT),
    ),
    *of_path(
        "mtp_llama: the last head alone",
        PlantedBug(
            MTP,
            "the last head has the norm before",
            exchange(HEAD_NORM.format(1), HEAD_NORM.format(0), both=False),
            prediction_head_name(2, FINAL_NORM),
        ),
        PlantedBug(
            MTP,
            "heads in a chain",
            in_function("model.Model.run_prediction_heads", chain_heads),
            prediction_head_name(2, PREDICTION_BLOCK),
        ),
    ),
    *of_path(
        "dream, diffusion_llama: one layer",
        PlantedBug(DREAM, "causal in the last layer", in_mixer(-1, causal=True), CONTEXT),
        PlantedBug("diffusion", "causal in the first layer", in_mixer(0, causal=True), CONTEXT),
    ),
    *of_path(
        "llava: one operation of the tower",
        PlantedBug(SEEING, "patches by column", result("model.cut_patches", turn_patches), PATCHES),
        PlantedBug(
            SEEING,
            "another activation",
            in_tower(lambda b: replace(b, mlp=replace(b.mlp, activation="gelu"))),
            MLP,
        ),
        PlantedBug(SEEING, "another epsilon", in_tower(lambda b: replace(b, epsilon=1e-6)), NORM_1),
        PlantedBug(
            SEEING,
            "another base of RoPE",
            in_tower(lambda b: replace(b, mixer=replace(b.mixer, rope=replace(b.mixer.rope, theta=9e3)))),
            QUERY,
        ),
        PlantedBug(SEEING, "activated last", in_function("model.Model._project", activate_last), PROJECTOR),
    ),
    *of_path(
        "llava: images among the tokens",
        PlantedBug(
            SEEING,
            "images in another order",
            argument("model.place_features", 3, lambda f: f.roll(6, 0)),
            IMAGE_EMBEDDINGS,
        ),
        PlantedBug(SEEING, "features added", in_function("model.place_features", add_features), IMAGE_EMBEDDINGS),
        PlantedBug(SEEING, "one position an image", in_function("trace.make_context", one_position_an_image), QUERY),
    ),
]
CASES = tuple(sorted({bug.case for bug in BUGS}))


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_shows_first_where_it_is(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: PlantedBug
) -> None:
    found = find_planted(factory, bug, tmp_path / "trace", monkeypatch, LIMIT)
    assert found
    assert operation_of(found) == bug.operation


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_wrong_without_a_bug(factory: ModelFactory, tmp_path: Path, case: str) -> None:
    assert find_first_wrong(factory, case, tmp_path / "trace", LIMIT) == ""
