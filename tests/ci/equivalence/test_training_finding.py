"""A planted fault is named: the rank, the collective or the parameter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.mutation.training_faults import FAULTS
from benchmarks.training import run_fault
from ci.equivalence.capture_signature import CapturedGroup
from ci.equivalence.training_finding import TrainingFinding, describe_disagreement
from ci.evidence import Measure
from ci.layouts import LAYOUTS
from ci.subjects.reference.subject import ReferenceSubject
from ci.subjects.training import Disagreement, RankReport

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment

QUICK = (
    "gradients are not summed over data ranks",
    "a bias is added by every tensor rank before the sum",
    "the norm is not summed over stages",
    "AdamW's step is counted twice",
    "masked tokens count",
)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in QUICK], ids=lambda f: f.name.replace(" ", "-"))
def test_a_planted_fault_is_named(fault: object, trained: Experiment) -> None:
    result = run_fault(fault, trained.judge(ReferenceSubject(), trained.converted))  # type: ignore[arg-type]
    assert result.named, result.diagnosis


def test_copies_that_differ_are_told_with_their_group() -> None:
    ranks = (RankReport(0, {"tensor": (0, 1)}, "cpu", {}), RankReport(1, {"tensor": (0, 1)}, "cpu", {}))
    told = describe_disagreement(
        (Disagreement("norm", "gradient", (0, 1), 0.5), Disagreement("x", "weight", (0, 1), 1)), ranks
    )
    assert told.startswith("gradient of norm: ranks 0 and 1 hold different copies (relative 0.5, step 1), and 1 more")
    assert "their group is tensor" in told
    assert describe_disagreement((), ranks) == ""


@pytest.mark.parametrize(("known", "told"), [("AdamW's step", True), ("", False)])
def test_what_is_known_of_the_optimizer_hides_no_wrong_gradient(
    known: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is known, the first wrong quantity is told elsewhere."""
    names = ("_describe_forward", "_describe_gradients", "_describe_norm", "_describe_updates")
    for name, reason in zip(names, ("", "", "", known), strict=True):
        monkeypatch.setattr(TrainingFinding, name, lambda _, reason=reason: reason)
    wrong = Measure("gradient of norm, step 1", "float32", (4,), 1.2, 1e-6, passed=False)
    said = TrainingFinding(None, LAYOUTS["zero2"], [wrong], Path(), lambda: None).describe()  # type: ignore[arg-type]
    assert ("gradient of norm is wrong too (relative 1.2)" in said) is told
    assert bool(said) is told


@pytest.mark.parametrize(
    ("loss_error", "said"),
    [
        (3e-6, "token embeddings is off by 7.0e-05, the first that is by more than the loss (3.0e-06)"),
        (0.2, "every captured tensor of document 0 is right, the loss is wrong: its targets, mask or divisor"),
    ],
)
def test_a_loss_is_blamed_alone_only_where_no_tensor_is_off_by_more(
    loss_error: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a projector with the wrong gelu: 7e-5 in the embeddings, 3e-6 in the loss."""
    monkeypatch.setattr("ci.equivalence.training_finding.describe_loss", lambda *_: "")
    monkeypatch.setattr(TrainingFinding, "tokens", None)
    right = torch.ones(1, 4, 3, dtype=torch.float64)
    group = CapturedGroup((0,), [{"embeddings": right * (1 + 7e-5)}], {"embeddings": right})
    wrong = Measure("loss, step 1", "float32", (), loss_error, 1e-6, passed=False)
    run = SimpleNamespace(run=SimpleNamespace(result=SimpleNamespace(losses=[1.0])))
    finding = TrainingFinding(run, LAYOUTS["single"], [wrong], Path(), lambda: group)  # type: ignore[arg-type]
    assert finding._describe_forward() == f"forward pass: {said}"
