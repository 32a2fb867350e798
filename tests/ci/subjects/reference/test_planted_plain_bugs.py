"""Bugs in what published models of the plain formats have beside the usual: each shows first where it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.reference.config import DefaultRope, ProportionalRope, StochasticMixer
from ci.subjects.reference.weight_names import EMBEDDINGS_WEIGHT, HEAD_WEIGHT
from ci.tensor_names import CONTEXT, EMBEDDINGS, KEY, LOGITS, MLP, QUERY, ROUTER_LOGITS, ROUTER_SCORES, TOP_EXPERTS
from tests.ci.subjects.reference.planting import (
    Plant,
    PlantedBug,
    attention,
    find_first_wrong,
    find_planted,
    in_function,
    in_weights,
    of_path,
    weights,
)
from tests.standin.own_models import DREAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ci.subjects.reference.model import Model
    from tests.ci.subjects.reference.conftest import ModelFactory

LIMIT = 4e-6
"""The largest error of a right model is below 1.5e-6; what a bug does is far above."""
LLAMA32, NEMO, QWEN2, MIXTRAL, GEMMA4 = (
    "llama-3-2",
    "mistral",
    "qwen2-sliding",
    "mixtral-null-head-dim",
    "gemma4-experts",
)
WINDOW, SUPERNET = "mistral-window", "apriel2-supernet"


def rope(**changed: Any) -> Plant:
    """A bug of the RoPE of every block."""

    def plant(right: Model) -> Model:
        blocks = right.architecture.blocks
        wrong = (replace(b.attention, rope=replace(b.attention.rope, **changed)) for b in blocks)
        blocks = tuple(replace(block, mixer=mixer) for block, mixer in zip(blocks, wrong, strict=True))
        return replace(right, architecture=replace(right.architecture, blocks=blocks))

    return in_weights(plant)


def attentions(change: Callable[[int, Any], Any]) -> Plant:
    """A bug of the attention of each block, by the block's number."""

    def plant(right: Model) -> Model:
        blocks = enumerate(right.architecture.blocks)
        wrong = tuple(replace(block, mixer=change(number, block.attention)) for number, block in blocks)
        return replace(right, architecture=replace(right.architecture, blocks=wrong))

    return in_weights(plant)


def main_mixer(**changed: Any) -> Plant:
    """A bug of the main mixer of every block's several ones."""

    def change(block: Any) -> Any:
        mixer: StochasticMixer = block.mixer
        named = tuple((n, replace(m, **changed) if n == mixer.main else m) for n, m in mixer.mixers)
        return replace(block, mixer=replace(mixer, mixers=named))

    def plant(right: Model) -> Model:
        blocks = tuple(map(change, right.architecture.blocks))
        return replace(right, architecture=replace(right.architecture, blocks=blocks))

    return in_weights(plant)


def own_head(change: Callable[[Tensor], Tensor]) -> Plant:
    """A tied model whose head is something else than the embeddings."""

    def plant(right: Model) -> Model:
        head = change(right.weights[EMBEDDINGS_WEIGHT])
        untied = replace(right.architecture, tied=False)
        return replace(right, architecture=untied, weights={**right.weights, HEAD_WEIGHT: head})

    return in_weights(plant)


def keep_sum(route: Any) -> Any:
    """The scores of the chosen experts are not divided by their sum."""

    def wrong(tokens: Tensor, router: Tensor, per_token: int) -> Any:
        routing = route(tokens, router, per_token)
        return replace(routing, scores=routing.logits.softmax(-1).gather(-1, routing.experts))

    return wrong


def lowest(route: Any) -> Any:
    """The experts with the lowest scores are chosen."""

    def wrong(tokens: Tensor, router: Tensor, per_token: int) -> Any:
        routing = route(tokens, -router, per_token)
        return replace(routing, logits=-routing.logits)

    return wrong


def forget_mask_token(weight: Tensor) -> Tensor:
    """The embedding of the mask token is not learned."""
    changed = weight.clone()
    changed[DREAM["mask_token_id"]] = 0
    return changed


def hide_mask_token(make_context: Any) -> Any:
    """Masked tokens are taken for padding, to which no token attends."""

    def wrong(request: Any, checkpoint: Any, inputs: Any) -> Any:
        context = make_context(request, checkpoint, inputs)
        documents = torch.ones_like(inputs.ids) if context.documents is None else context.documents
        return replace(context, documents=documents + 2 * (inputs.ids == DREAM["mask_token_id"]))

    return wrong


def swap_gate_up(weight: Tensor) -> Tensor:
    """Gate and up of each of 4 experts."""
    return torch.cat([torch.cat(expert.chunk(2)[::-1]) for expert in weight.chunk(4)])


def slide_below(number: int, each: Any) -> Any:
    """The windows of a model whose first layer alone has none, in its first layer alone."""
    return replace(each, window=12 if number == 0 else None)


def window_everywhere(_: int, each: Any) -> Any:
    return replace(each, window=20)


def base_of_sliding(_: int, each: Any) -> Any:
    """Full layers rotate by the base of the sliding ones."""
    return replace(each, rope=replace(each.rope, theta=1e4) if isinstance(each.rope, ProportionalRope) else each.rope)


BUGS = [
    *of_path(
        "Llama-3.2: RoPE scaled by 32",
        PlantedBug(LLAMA32, "a factor of 8", rope(scale_factor=8.0), QUERY),
        PlantedBug(LLAMA32, "nothing between high and low", rope(high_frequency_factor=1.0 + 1e-6), QUERY),
        PlantedBug(LLAMA32, "no scaling", attentions(lambda _, a: replace(a, rope=DefaultRope(a.rope.theta))), QUERY),
        PlantedBug(LLAMA32, "another original context", rope(original_context_length=96), QUERY),
    ),
    *of_path(
        "Llama-3.2: tied embeddings",
        PlantedBug(LLAMA32, "a head one row off", own_head(lambda w: w.roll(1, 0)), LOGITS),
        PlantedBug(LLAMA32, "a head of its own", own_head(lambda w: w.flip(1)), LOGITS),
    ),
    *of_path(
        "Mistral-Nemo: head_dim unlike hidden / heads",
        PlantedBug(NEMO, "scores by hidden / heads", attention(scale_power=0.5 * math.log(16) / math.log(20)), CONTEXT),
        PlantedBug(NEMO, "frequencies of hidden / heads", rope(theta=10_000.0 ** (20 / 16)), QUERY),
    ),
    *of_path(
        "sliding window in every layer",
        PlantedBug(WINDOW, "no window", attention(window=None), CONTEXT),
        PlantedBug(WINDOW, "a window of one more", attention(window=21), CONTEXT),
    ),
    *of_path(
        "Qwen2: windows in some layers",
        PlantedBug(QWEN2, "no window", attention(window=None), CONTEXT),
        PlantedBug(QWEN2, "windows below max_window_layers", attentions(slide_below), CONTEXT),
        PlantedBug(QWEN2, "windows in every layer", attention(window=12), CONTEXT),
    ),
    *of_path(
        "Qwen2: biases of query, key and value",
        PlantedBug(QWEN2, "no bias of queries", weights("query.bias", torch.zeros_like), QUERY),
        PlantedBug(QWEN2, "biases of keys and values swapped", weights("key_value.bias", lambda b: b.roll(48)), KEY),
    ),
    *of_path(
        "Mixtral-8x22B: no head_dim, experts",
        PlantedBug(MIXTRAL, "scores not divided by their sum", in_function("model.route", keep_sum), ROUTER_SCORES),
        PlantedBug(MIXTRAL, "the lowest experts", in_function("model.route", lowest), TOP_EXPERTS),
        PlantedBug(
            MIXTRAL, "experts in another order", weights("router.weight", lambda w: w.roll(1, 0)), ROUTER_LOGITS
        ),
        PlantedBug(MIXTRAL, "gate and up swapped", weights("mlp.layer_1.weight", swap_gate_up), MLP),
        PlantedBug(MIXTRAL, "a base of 10000", rope(theta=10_000.0), QUERY),
    ),
    *of_path(
        "Gemma 4: sliding and full layers, head sizes",
        PlantedBug(GEMMA4, "a window in full layers", attentions(window_everywhere), CONTEXT),
        PlantedBug(GEMMA4, "the sliding layers' base in full ones", attentions(base_of_sliding), QUERY),
    ),
    *of_path(
        "dream, diffusion_llama: masked tokens",
        PlantedBug(
            "dream", "no embedding of the mask token", weights(EMBEDDINGS_WEIGHT, forget_mask_token), EMBEDDINGS
        ),
        PlantedBug("dream", "masked tokens are padding", in_function("trace.make_context", hide_mask_token), CONTEXT),
    ),
    *of_path(
        "apriel2: several mixers in a block",
        PlantedBug(SUPERNET, "the window of another mixer", main_mixer(window=9), CONTEXT),
        PlantedBug(SUPERNET, "the RoPE of another mixer", main_mixer(rope=DefaultRope(500.0)), QUERY),
        PlantedBug(
            SUPERNET,
            "another mixer runs",
            in_function("config.StochasticMixer.choose", lambda choose: lambda self, _: choose(self, "sliding_window")),
            QUERY,
        ),
    ),
]
CASES = tuple(sorted({bug.case for bug in BUGS}))


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_shows_first_where_it_is(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: PlantedBug
) -> None:
    assert find_planted(factory, bug, tmp_path / "trace", monkeypatch, LIMIT) == bug.operation


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_wrong_without_a_bug(factory: ModelFactory, tmp_path: Path, case: str) -> None:
    assert find_first_wrong(factory, case, tmp_path / "trace", LIMIT) == ""
