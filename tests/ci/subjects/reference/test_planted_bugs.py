"""Two or more bugs in each special path of Gemma 4: each shows, and first in the operation that it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.subjects.reference import model as model_module
from ci.subjects.reference import rope as rope_module
from ci.subjects.reference import trace as trace_module
from ci.subjects.reference.config import Architecture, ProportionalRope
from ci.subjects.reference.model import Model
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import (
    CONTEXT,
    EMBEDDINGS,
    KEY,
    LOGITS,
    MIXER_RESIDUAL,
    MLP_DENSE,
    MLP_ROUTED,
    QUERY,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    VALUE,
    operation_of,
)
from tests.ci.subjects.reference.cases import errors, trace_request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ci.subjects.reference.conftest import ModelFactory

CASE = "gemma4-experts"
LIMIT = 2e-6
"""The largest error of the right model is below 1e-6; what a bug does is far above."""
Change = Callable[[Model], Model]


def weights(**changed: Callable[[Model, str], Any]) -> Change:
    """Return a bug in every weight whose name ends as a key of `changed` says (`__` stands for a dot)."""

    def change(right: Model) -> Model:
        wrong = dict(right.weights)
        for end, make in changed.items():
            for name in right.weights:
                if name.endswith(end.replace("__", ".")):
                    wrong[name] = make(right, name)
        return replace(right, weights=wrong)

    return change


def ones(right: Model, name: str) -> Any:
    return torch.ones_like(right.weights[name])


def of(end: str, other: str) -> Callable[[Model, str], Any]:
    return lambda right, name: right.weights[name.replace(end, other)]


def architecture(**changed: Callable[[Architecture], Any]) -> Change:
    return lambda right: replace(
        right,
        architecture=replace(right.architecture, **{key: make(right.architecture) for key, make in changed.items()}),
    )


def blocks(change: Callable[[Any], Any]) -> Change:
    return architecture(blocks=lambda a: tuple(map(change, a.blocks)))


def attention(**changed: Any) -> Change:
    return blocks(lambda block: replace(block, mixer=replace(block.attention, **changed)))


def whole_head(block: Any) -> Any:
    rope = block.attention.rope
    if isinstance(rope, ProportionalRope):
        rope = replace(rope, partial_rotary_factor=1.0)
    return replace(block, mixer=replace(block.attention, rope=rope))


def next_window(block: Any) -> Any:
    window = block.attention.window
    return replace(block, mixer=replace(block.attention, window=window and window + 1))


BUGS: dict[str, tuple[Change, str]] = {
    "query norm without its weight": (weights(query_norm__weight=ones), QUERY),
    "query norm with the key's weight": (weights(query_norm__weight=of("query_norm", "key_norm")), QUERY),
    "key norm without its weight": (weights(key_norm__weight=ones), KEY),
    "key norm with the query's weight": (weights(key_norm__weight=of("key_norm", "query_norm")), KEY),
    "whole heads rotate in full layers": (blocks(whole_head), QUERY),
    "scores divided by the root of the head size": (attention(scale_power=0.5), CONTEXT),
    "a window of one more": (blocks(next_window), CONTEXT),
    "no norm after the attention": (weights(post_mixer_norm__weight=ones), MIXER_RESIDUAL),
    "the MLP's norm after the attention": (
        weights(post_mixer_norm__weight=of("post_mixer_norm", "post_mlp_norm")),
        MIXER_RESIDUAL,
    ),
    "no weight in the norm after the MLP": (weights(post_mlp_norm__weight=ones), ""),
    "the attention's norm after the MLP": (weights(post_mlp_norm__weight=of("post_mlp_norm", "post_mixer_norm")), ""),
    "the routed norm before the dense MLP": (weights(dense__pre_norm__weight=of("dense", "routed")), MLP_DENSE),
    "the routed norm after the dense MLP": (weights(dense__post_norm__weight=of("dense", "routed")), MLP_DENSE),
    "the dense norm before the experts": (weights(routed__pre_norm__weight=of("routed", "dense")), MLP_ROUTED),
    "no weight in the norm after the experts": (weights(routed__post_norm__weight=ones), MLP_ROUTED),
    "no scale of the router's input": (weights(router_scale=ones), ROUTER_LOGITS),
    "no factor of an expert": (weights(router_per_expert_scale=ones), TOP_EXPERTS),  # sorted by score
    "no scalar of a layer": (weights(output_scale=ones), ""),
    "the first layer's scalar in all": (weights(output_scale=lambda m, _: m.weights["decoder.0.output_scale"]), ""),
    "no embedding scale": (architecture(embedding_scale=lambda _: 1.0), EMBEDDINGS),
    "the hidden size as embedding scale": (architecture(embedding_scale=lambda a: float(a.hidden)), EMBEDDINGS),
    "no softcap": (architecture(softcap=lambda _: None), LOGITS),
    "half the softcap": (architecture(softcap=lambda a: (a.softcap or 0) / 2), LOGITS),
}


def first_wrong(factory: ModelFactory, output: Path) -> str:
    """Return the operation of the first tensor, in the order of computation, that is wrong."""
    request = trace_request(factory.converted(CASE), factory.inputs, output, capture="all")
    ReferenceSubject().trace(request)
    by_tensor = errors(output, factory.expected(CASE))
    return next(operation_of(name) for name, error in by_tensor.items() if not error <= LIMIT)


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_shows_first_where_it_is(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, operation = BUGS[name]
    load = trace_module.load_model
    monkeypatch.setattr(trace_module, "load_model", lambda *args: change(load(*args)))
    assert first_wrong(factory, tmp_path / "trace") == operation


def keep_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router's input is not divided by the root of the hidden size."""
    norm = model_module.rms_norm

    def wrong(hidden: Any, weight: Any, epsilon: float) -> Any:
        normed = norm(hidden, weight, epsilon)
        return normed * hidden.shape[-1] ** 0.5 if weight is None and hidden.ndim == 2 else normed

    monkeypatch.setattr(model_module, "rms_norm", wrong)


def keep_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value has no norm."""
    norm = model_module.rms_norm

    def wrong(hidden: Any, weight: Any, epsilon: float) -> Any:
        return hidden if weight is None and hidden.ndim == 4 else norm(hidden, weight, epsilon)

    monkeypatch.setattr(model_module, "rms_norm", wrong)


def scale_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value's norm has a large epsilon."""
    norm = model_module.rms_norm

    def wrong(hidden: Any, weight: Any, epsilon: float) -> Any:
        return norm(hidden, weight, 0.1 if weight is None and hidden.ndim == 4 else epsilon)

    monkeypatch.setattr(model_module, "rms_norm", wrong)


def divide_by_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exponents of a proportional RoPE divide by the rotated dimensions alone."""
    right = rope_module.compute_frequencies

    def wrong(rope: Any, head_dim: int) -> Any:
        inverse, scale = right(rope, head_dim)
        if isinstance(rope, ProportionalRope):
            rotated = int((inverse != 0).sum())
            steps = torch.arange(rotated, dtype=torch.float32) / rotated
            inverse = torch.cat([1 / rope.theta**steps, inverse[rotated:]])
        return inverse, scale

    monkeypatch.setattr(rope_module, "compute_frequencies", wrong)


def renormalize_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are divided by their sum after the experts' factors."""
    right = model_module.Model._route_scaled

    def wrong(*args: Any) -> Any:
        routing = right(*args)
        return replace(routing, scores=routing.scores / routing.scores.sum(-1, keepdim=True))

    monkeypatch.setattr(model_module.Model, "_route_scaled", wrong)


FUNCTION_BUGS: list[tuple[Any, str]] = [
    (keep_scale, ROUTER_LOGITS),
    (keep_value, VALUE),
    (scale_value, VALUE),
    (divide_by_rotated, QUERY),
    (renormalize_after, ROUTER_SCORES),
]


@pytest.mark.parametrize(("plant", "operation"), FUNCTION_BUGS)
def test_a_bug_in_the_code_shows_first_where_it_is(
    factory: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Any, operation: str
) -> None:
    plant(monkeypatch)
    assert first_wrong(factory, tmp_path / "trace") == operation
