"""Runs hub-tests' judge on one state of Fast-LLM, with a worker of its own that imports that state."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.mutation.tiny_models import TinyModel, write_tiny_model
from benchmarks.replay.records import Check, Finding, Pair
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.judge import Judge
from ci.equivalence.verdict import Verdict
from ci.errors import SubjectError
from ci.models import HubModel, TestParams
from ci.subjects.base import ConvertRequest, ExportRequest, Subject
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.open_subject import open_subject
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from collections.abc import Callable

PARAMS = TestParams(batch_size=2, sequence_length=24)
TIMEOUT = 900.0


@dataclass(frozen=True)
class PreparedModel:
    """A tiny model on disk with Hugging Face's side of the comparison, which both states share."""

    entry: HubModel
    source: Path
    reference: ReferenceRun


@dataclass
class Laboratory:
    """The models and their reference runs of one session; each is made once, in `workdir`."""

    workdir: Path
    python: Path
    hugging_face: HuggingFace = field(default_factory=HuggingFace)
    _prepared: dict[str, PreparedModel] = field(default_factory=dict)

    def judge_state(self, pair: Pair, checkout: Path) -> Finding:
        """Return the first red finding of a state, or the last green one."""
        assert pair.model is not None
        model = self._prepare(pair.model)
        with (
            tempfile.TemporaryDirectory(dir=self.workdir, prefix="state-") as scratch,
            open_subject(
                "fast_llm",
                python=self.python,
                path=(checkout,),
                timeout=TIMEOUT,
                log=Path(scratch) / "worker.log",
                environ={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            ) as subject,
        ):
            return StateJudge(pair, model, subject, self.hugging_face, Path(scratch)).run()

    def _prepare(self, tiny_model: TinyModel) -> PreparedModel:
        if tiny_model.name not in self._prepared:
            source = write_tiny_model(tiny_model, self.workdir / tiny_model.name)
            entry = HubModel(tiny_model.name, f"tiny/{tiny_model.name}", tiny_model.model_type, test_params=PARAMS)
            reference = ReferenceRun(source, PARAMS, self.hugging_face, "cpu", self.workdir / f"{tiny_model.name}-hf")
            self._prepared[tiny_model.name] = PreparedModel(entry, source, reference)
        return self._prepared[tiny_model.name]


@dataclass(frozen=True)
class StateJudge:
    """The checks of one pair on one state."""

    pair: Pair
    model: PreparedModel
    subject: Subject
    hugging_face: HuggingFace
    workdir: Path

    def run(self) -> Finding:
        """Convert, then run each check in turn until one is red."""
        converted = self.workdir / "converted"
        finding = self._convert(converted)
        judge = self._make_judge(converted) if finding.passed else None
        for check in self.pair.checks:
            if judge is None or not finding.passed:
                break
            finding = self._check(check, judge, converted)
        return finding

    def _convert(self, converted: Path) -> Finding:
        entry = self.model.entry
        return catch(
            "convert",
            lambda: self.subject.convert(
                ConvertRequest(str(self.model.source), str(converted), entry.checkpoint_format, entry.model_config)
            ),
        )

    def _make_judge(self, converted: Path) -> Judge:
        inputs = ComparisonInputs(self.model.entry, str(self.model.source), str(converted), workdir=str(self.workdir))
        reference = self.model.reference
        return Judge(inputs, self.subject, self.hugging_face, ReferenceSubject(), shared_reference=reference)

    def _check(self, check: Check, judge: Judge, converted: Path) -> Finding:
        match check:
            case "convert":
                return Finding("convert", passed=True)
            case "float32" | "model":
                return catch(check, lambda: judge.check_forward(dtype=check, variant=self.pair.variant))
            case "round_trip":
                return catch(check, lambda: judge.check_round_trip(str(self._export(converted))))
            case "config_sensitivity":
                return catch(check, judge.check_config_sensitivity)
            case "gradients":
                return catch(check, judge.check_gradients)
            case "layer_order":
                return catch(check, lambda: judge.check_layer_order()[0])

    def _export(self, converted: Path) -> Path:
        exported, entry = self.workdir / "exported", self.model.entry
        dtype = self.model.reference.model_dtype
        self.subject.export(
            ExportRequest(str(converted), str(exported), entry.checkpoint_format, entry.model_config, dtype)
        )
        return exported


def catch(check: Check, work: Callable[[], object]) -> Finding:
    """Return what a check found; what the subject raises is a finding, as in the suite."""
    try:
        result = work()
    except SubjectError as error:
        return Finding(check, passed=False, failure_class=error.failure, diagnosis=str(error))
    if not isinstance(result, Verdict):
        return Finding(check, passed=True)
    return Finding(
        check,
        passed=result.passed,
        failure_class=result.failure_class or "",
        operation=result.operation,
        layer=result.layer,
        component=result.component,
        diagnosis=result.diagnosis,
    )
