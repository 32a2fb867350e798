"""Whole verdicts of formats whose modelling code travels with the model: the reference against that code."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.judge import Judge
from ci.models import HubModel, TestParams
from ci.subjects.base import ConvertRequest, ExportRequest, GradientRequest, GradientResult, TraceRequest, TraceResult
from ci.subjects.reference import delta_mixers, delta_rule
from ci.subjects.reference.subject import ReferenceSubject
from tests.standin.own_models import MIXERS, OWN_MODELS, open_side, write_own_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.subjects.base import Subject


def make_judge(case: str, directory: Path, subject: Subject, cross_check: Subject | None = None) -> Judge:
    """Write the model of a case, convert it, and open a judge."""
    kind = str(OWN_MODELS[case]["model_type"])
    source, converted = write_own_model(OWN_MODELS[case], directory / "hf", dtype="bfloat16"), directory / "converted"
    subject.convert(ConvertRequest(str(source), str(converted), kind))
    params = TestParams(batch_size=2, sequence_length=48, compare_factor=1.0)
    model = HubModel(case, f"stand-in/{case}", kind, test_params=params)
    inputs = ComparisonInputs(model, str(source), str(converted), workdir=str(directory))
    return Judge(inputs, subject, open_side(), cross_check=cross_check)


@pytest.mark.long
@pytest.mark.parametrize("case", ["mtp", "dream", "apriel2-stochastic", "apriel-hybrid"])
def test_the_whole_chain_is_green(case: str, tmp_path: Path) -> None:
    """Conversion, both dtypes, every mixer, the way back, and what only --deep runs."""
    subject = ReferenceSubject()
    judge = make_judge(case, tmp_path, subject)
    mixers = [v for v in subject.variants(judge.inputs.subject_path) if v.axis == "mixer"]
    verdicts = [judge.check_forward(dtype=dtype, variant={}) for dtype in ("float32", "model")]
    verdicts += [judge.check_forward(dtype="float32", variant={v.axis: v.name}) for v in mixers]
    exported, kind = str(tmp_path / "exported"), str(OWN_MODELS[case]["model_type"])
    subject.export(ExportRequest(judge.inputs.subject_path, exported, kind, dtype="bfloat16"))
    verdicts += [judge.check_round_trip(exported), judge.check_config_sensitivity(), judge.check_weight_liveness()]
    verdicts += [*judge.check_layer_order(), *judge.check_positions(), *judge.check_gradients_of_mixers()]
    assert [verdict.diagnosis for verdict in verdicts if not verdict.passed] == []
    assert sorted(v.name for v in mixers) == (sorted(MIXERS) if case == "apriel2-stochastic" else [])


class WrongKimi(ReferenceSubject):
    """Lets what Kimi delta attention remembers decay twice as fast, forwards and backwards."""

    def trace(self, request: TraceRequest) -> TraceResult:
        with _decay_twice():
            return super().trace(request)

    def gradients(self, request: GradientRequest) -> GradientResult:
        with _decay_twice():
            return super().gradients(request)


@contextmanager
def _decay_twice() -> Iterator[None]:
    right = delta_rule.compute_decay
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_mixers, "compute_decay", lambda x, *rest: right(x, *rest) * (2 if x.ndim == 4 else 1))
        yield


def test_a_mixer_is_judged_by_its_own_answer(tmp_path: Path) -> None:
    """The cross-check runs the mixer that was asked for: the conversion is right, the kernel is not."""
    judge = make_judge("apriel2-stochastic", tmp_path, WrongKimi(), ReferenceSubject())
    verdict = judge.check_forward(dtype="float32", variant={"mixer": "kda"})
    assert not verdict.passed
    assert (verdict.component, verdict.operation) == ("kernel", "decay of the recurrence")


@pytest.mark.long
def test_gradients_of_each_mixer_are_compared(tmp_path: Path) -> None:
    judge = make_judge("apriel2-stochastic", tmp_path, WrongKimi())
    verdicts = dict(zip(MIXERS, judge.check_gradients_of_mixers(), strict=True))
    assert [name for name, verdict in verdicts.items() if not verdict.passed] == ["kda"]
    assert verdicts["kda"].component == "kernel"
