"""A formula counts only where it gives the float64 trace's output from its input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ci.equivalence.operation_formulas import AttentionFormula, NormFormula, RouterFormula, find_formulas
from tests.ci.equivalence.precision import CONFIG, EPSILON, HIDDEN, KEEP, B, D, T, attend, draw, exact_block, normalize


def found(tensors: dict[str, torch.Tensor], config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    return dict(find_formulas(tuple(tensors), tensors.__getitem__, config, KEEP))


def test_norms_attention_and_router_are_explained() -> None:
    formulas = found(exact_block())
    norms = ("decoder.0.norm_1", "decoder.0.norm_2", "final_norm")
    assert set(formulas) == {*norms, "decoder.0.mixer.context", "decoder.0.mlp.router_scores"}
    weight = formulas["decoder.0.norm_1"].weight
    assert torch.allclose(weight, draw(HIDDEN, seed=2), rtol=1e-12)
    assert formulas["decoder.0.norm_2"].summands == ("embeddings", "decoder.0.mixer")
    assert formulas["decoder.0.mlp.router_scores"] == RouterFormula(0, "softmax", renormalized=True)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("decoder.0.norm_1", lambda t: t["decoder.0.norm_1"] * (1 + t["embeddings"] * 1e-2)),
        ("decoder.0.norm_1", lambda t: torch.nn.functional.layer_norm(t["embeddings"] + 1, (HIDDEN,))),
        ("decoder.0.mixer.context", lambda t: t["decoder.0.mixer.context"].tanh()),
        ("decoder.0.mlp.router_scores", lambda t: t["decoder.0.mlp.router_scores"].square()),
    ],
)
def test_what_no_formula_explains_is_not_judged(name: str, other: Any) -> None:
    tensors = exact_block()
    assert name not in found({**tensors, name: other(tensors)})


def test_the_epsilon_is_the_configs() -> None:
    assert "decoder.0.norm_1" not in found(exact_block(), {"rms_norm_eps": 1e-2})
    assert not [name for name in found(exact_block(), {}) if "norm" in name]


def test_the_softmax_scale_may_come_from_the_config() -> None:
    tensors = exact_block()
    inputs = [tensors[f"decoder.0.mixer.{name}"] for name in ("query", "key", "value")]
    tensors["decoder.0.mixer.context"] = attend(*inputs, scale=7**-0.5)
    assert "decoder.0.mixer.context" not in found(tensors)
    formula = found(tensors, {**CONFIG, "query_pre_attn_scalar": 7})["decoder.0.mixer.context"]
    assert formula.scale == 7**-0.5


def test_attention_of_a_trace_without_its_inputs_is_not_judged() -> None:
    tensors = exact_block()
    del tensors["decoder.0.mixer.key"]
    assert "decoder.0.mixer.context" not in found(tensors)


def test_the_derivative_by_the_scale_is_right() -> None:
    formula = AttentionFormula(0, 0.3, torch.ones(T, T, dtype=torch.bool).tril()[None, None])
    tensors = exact_block()
    inputs = next(formula.read_inputs(tensors.__getitem__))
    other = AttentionFormula(0, 0.3 * (1 + 1e-6), formula.seen)
    change = (other.compute(inputs) - formula.compute(inputs)) / 1e-6
    assert torch.allclose(change, formula.differentiate_scale(inputs), atol=1e-5)
    assert formula.compute(inputs).shape == (B, T, 4, D)


def test_a_fused_add_is_a_second_input() -> None:
    tensors = exact_block()
    formula = NormFormula("decoder.0.mixer_residual", ("embeddings", "decoder.0.mixer"), torch.ones(HIDDEN), EPSILON)
    captured, fused = formula.read_inputs(tensors.__getitem__)
    assert torch.equal(captured[0], fused[0])
    assert torch.equal(formula.compute(captured), normalize(tensors["decoder.0.mixer_residual"]))
    limited = formula.limit_to({"decoder.0.mixer_residual"})
    assert limited is not None
    assert not limited.summands
    assert formula.limit_to({"embeddings"}) is None
