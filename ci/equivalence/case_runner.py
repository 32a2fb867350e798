"""Runs a subject on one input case and compares its trace with Hugging Face's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.equivalence.case_result import CaseComparison
from ci.equivalence.device_usage import CostMeter
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.symmetries import undo_symmetries
from ci.equivalence.tolerances import TEACHER_FORCING_SHARE
from ci.equivalence.trace_compare import TraceComparison
from ci.equivalence.verdict import find_substitutes
from ci.subjects.base import Subject, TraceRequest
from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from ci.equivalence.inputs import InputCase
    from ci.equivalence.root_cause import ForwardSpec
    from ci.subjects.base import DType, TraceResult


@dataclass(frozen=True)
class CaseRunner:
    """Runs and compares the cases of a reference run; the subject's traces are written below `directory`.

    `subject` is the one under test: a pass of another is called that of the cross-check in the times by phase.
    """

    reference: ReferenceRun
    subject: Subject
    device: str
    directory: Path
    costs: CostMeter

    def compare_end_to_end(self, case: InputCase, dtype: DType, spec: ForwardSpec) -> CaseComparison:
        """Compare a case; block by block where rounding flips would excuse too many tokens otherwise."""
        result = self.compare(case, dtype, spec, teacher_forced=False)
        if result.excused_share > TEACHER_FORCING_SHARE:
            return self.compare(case, dtype, spec, teacher_forced=True)
        return result

    def compare_again(self, spec: ForwardSpec, like: CaseComparison, *, teacher_forced: bool) -> CaseComparison:
        """Compare another forward pass over the case and in the dtype of `like`."""
        return self.compare(like.case, like.tolerances.dtype, spec, teacher_forced=teacher_forced)

    def compare(self, case: InputCase, dtype: DType, spec: ForwardSpec, *, teacher_forced: bool) -> CaseComparison:
        """Run a forward pass and compare it; with `teacher_forced` each block gets the expected input."""
        expected = self.reference.get_expected_trace(case)
        tolerances = self.reference.get_tolerances(case, dtype, teacher_forced=teacher_forced)
        teacher = self.reference.get_teacher_trace(case) if teacher_forced else None
        result, trace = self._run_subject(case, dtype, spec, teacher=teacher)
        comparison = TraceComparison(
            *(trace, expected, case.keep),
            expected_slice=case.part,
            flip_gap_limit=tolerances.get_flip_gap_limit,
            carry_flips=not teacher_forced,
            compare_predictions=case is self.reference.cases[0] and not (teacher_forced or spec.variant),
            device=self.device,
            images=case.image_tokens,
        )
        asked = {**spec.variant, "dtype": dtype, "device": self.device}
        with self.costs.time_comparison():
            diff = comparison.run()
        compared = CaseComparison(
            *(case, tolerances, diff, result.ran, trace.path),
            teacher_forced=teacher_forced,
            substitutes=find_substitutes(asked, {**result.ran, "dtype": result.dtype, "device": result.device}),
        )
        return undo_symmetries(compared, comparison.read_pair)

    def _run_subject(
        self, case: InputCase, dtype: DType, spec: ForwardSpec, *, teacher: TraceReader | None
    ) -> tuple[TraceResult, TraceReader]:
        output = self.directory / f"{case.name}-{len(list(self.directory.iterdir()))}"
        request = TraceRequest(
            checkpoint=spec.checkpoint,
            inputs=str(self.reference.runner.write_inputs(case)),
            output=str(output),
            dtype=dtype,
            device=self.device,
            variant=dict(spec.variant),
            capture="all",
            feed=str(teacher.path) if teacher else None,
        )
        self.reference.lease.acquire(spec.subject)
        result = self.costs.run_trace(self._name_run(dtype, spec), lambda: spec.subject.trace(request))
        return result, TraceReader(output)

    def _name_run(self, dtype: DType, spec: ForwardSpec) -> str:
        """Name a forward pass of the subject, or of the cross-check, in the times by phase."""
        side = "subject" if spec.subject is self.subject else "cross-check"
        return " ".join([side, dtype, *(f"{axis}={name}" for axis, name in spec.variant.items())])


def remove_if_passed(result: CaseComparison) -> CaseComparison:
    """Remove the trace of a case that passed.

    No diagnosis needs it, and its memory serves the next one.
    """
    if not result.failed:
        shutil.rmtree(result.path, ignore_errors=True)
    return result
