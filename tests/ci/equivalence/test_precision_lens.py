"""The lens on synthetic operations: Hugging Face's orders are the floor, a cast inside one operation is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ci.equivalence.precision_lens import PrecisionLens, is_lens_dtype
from tests.ci.equivalence.precision import CONFIG, HIDDEN, KEEP, draw, exact_block, normalize
from tests.ci.equivalence.traces import trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ci.subjects.trace_files import TraceReader

    Tensors = dict[str, Tensor]

EXACT = exact_block()


def in_bfloat16(tensors: Tensors) -> Tensors:
    """Round every tensor once, then compute the norms as Llama does from the rounded residual."""
    low = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}
    for name, source, seed in (("norm_1", "embeddings", 2), ("norm_2", "decoder.0.mixer_residual", 6)):
        low[f"decoder.0.{name}"] = llama_norm(low[source], seed)
    low["final_norm"] = llama_norm(low["decoder.0"], 9)
    return low


def llama_norm(tensor: Tensor, seed: int) -> Tensor:
    return draw(HIDDEN, seed=seed).bfloat16() * normalize(tensor.float()).bfloat16()


@pytest.fixture
def lens(tmp_path: Path) -> PrecisionLens:
    made = PrecisionLens(trace(tmp_path / "expected", EXACT, dtype="float64"), CONFIG, KEEP)
    made.add_floor(low_trace(tmp_path / "hugging_face", {}))
    return made


def low_trace(path: Path, changes: dict[str, Tensor]) -> TraceReader:
    return trace(path, in_bfloat16(EXACT) | changes, dtype="bfloat16")


def test_what_rounds_as_hugging_face_does_is_clean(lens: PrecisionLens, tmp_path: Path) -> None:
    subject = low_trace(tmp_path / "subject", {})
    assert lens.find(subject) == []
    assert lens.correlate(subject) == pytest.approx(1)
    assert lens.operations == 7
    assert lens.describe_coverage().startswith(
        "norm_1, mixer.context, norm_2, mlp.router_scores, final_norm in float64"
    )


def statistics_in_bfloat16(low: Tensors) -> Tensor:
    hidden = low["embeddings"]
    return draw(HIDDEN, seed=2).bfloat16() * normalize(hidden)


def fused_add(_: Tensors) -> Tensor:
    both = low_sum()
    return (draw(HIDDEN, seed=6) * normalize(both)).bfloat16()


def low_sum() -> Tensor:
    low = in_bfloat16(EXACT)
    return low["embeddings"].double() + low["decoder.0.mixer"].double()


def router_in_bfloat16(low: Tensors) -> Tensor:
    scores = low["decoder.0.mlp.router_logits"].exp()
    scores = (scores / scores.sum(-1, keepdim=True)).gather(-1, low["decoder.0.mlp.router_top_experts"])
    return scores / scores.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("decoder.0.norm_1", statistics_in_bfloat16, "norm_1 in layer 0"),
        ("decoder.0.mlp.router_scores", router_in_bfloat16, "mlp.router_scores in layer 0"),
        ("decoder.0.mixer.context", lambda low: low["decoder.0.mixer.context"] * 1.01, "mixer.context in layer 0"),
        ("decoder.0.norm_2", fused_add, ""),
        ("final_norm", lambda low: (draw(HIDDEN, seed=9) * normalize(low["decoder.0"].double())).bfloat16(), ""),
    ],
)
def test_a_cast_inside_an_operation_is_told_and_another_right_order_is_not(
    lens: PrecisionLens, tmp_path: Path, name: str, change: Callable[[Tensors], Tensor], told: str
) -> None:
    findings = lens.find(low_trace(tmp_path / "subject", {name: change(in_bfloat16(EXACT))}))
    assert [finding.tensor for finding in findings] == ([name] if told else [])
    assert all(f"precision: {told} is right but imprecise" in str(finding) for finding in findings)


def test_turned_queries_are_told(lens: PrecisionLens, tmp_path: Path) -> None:
    name = "decoder.0.mixer.query"
    first, second = EXACT[name].chunk(2, -1)
    turned = torch.cat([first - 0.02 * second, second + 0.02 * first], -1).bfloat16()
    context = in_bfloat16(EXACT)["decoder.0.mixer.context"]
    changes = {name: turned, "decoder.0.mixer.context": context}
    findings = lens.find(low_trace(tmp_path / "subject", changes), excused=["decoder.1.mixer.query"])
    assert findings[0].tensor == name
    assert not lens.find(low_trace(tmp_path / "again", changes), excused=["decoder.0.mixer.query"])


def test_a_block_that_was_fed_is_measured_on_what_it_was_fed(lens: PrecisionLens, tmp_path: Path) -> None:
    subject = low_trace(tmp_path / "subject", {"embeddings": torch.zeros_like(EXACT["embeddings"]).bfloat16()})
    assert [finding.tensor for finding in lens.find(subject)] == ["decoder.0.norm_1"]
    assert lens.find(subject, feed=lens.expected) == []


def test_an_operation_without_a_formula_is_named_in_the_coverage(tmp_path: Path) -> None:
    strange = EXACT | {"decoder.0.norm_2": EXACT["decoder.0.norm_2"].tanh()}
    lens = PrecisionLens(trace(tmp_path / "expected", strange, dtype="float64"), CONFIG, KEEP, attends=False)
    assert "decoder.0.mixer.context" not in lens.formulas
    assert lens.describe_coverage().startswith("not covered: no formula explains mixer.context, norm_2;")


def test_only_low_precision_is_looked_at() -> None:
    assert is_lens_dtype("bfloat16")
    assert is_lens_dtype("float16")
    assert not is_lens_dtype("float32")
