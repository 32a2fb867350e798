"""The check of one conversion's forward pass in one dtype and variant: every input case, findings, the root cause."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.equivalence.case_failures import CaseFailures, add_failures
from ci.equivalence.case_runner import CaseRunner, remove_if_passed
from ci.equivalence.cold_repeat import has_compile_cache
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.precision_lens import is_lens_dtype
from ci.equivalence.root_cause import ForwardSpec, RootCauseAnalysis
from ci.equivalence.verdict import (
    Verdict,
    add_diagnosis,
    add_precision,
    build_inconclusive_verdict,
    build_not_run_verdict,
    build_verdict,
    describe_uncaptured,
)
from ci.evidence import FINGERPRINT
from ci.subjects.base import DType, Subject
from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from ci.equivalence.case_result import CaseComparison
    from ci.equivalence.hf_reference import ReferenceRun
    from ci.equivalence.inputs import InputCase
    from ci.equivalence.precision_finding import PrecisionFinding


@dataclass(frozen=True)
class ForwardCheck:
    """Compares the forward pass that `spec` describes, in `dtype`; `runner` runs the cases.

    `cross_check` is another implementation that reads the subject's checkpoints. Without `explain` a failure has no
    root cause. `passed_in_float32` says that this variant's check in float32 passed before.
    """

    inputs: ComparisonInputs
    runner: CaseRunner
    spec: ForwardSpec
    dtype: DType
    cross_check: Subject | None
    explain: bool
    passed_in_float32: bool

    @property
    def reference(self) -> ReferenceRun:
        """Hugging Face's side."""
        return self.runner.reference

    def run(self) -> Verdict:
        """Compare every case, then the first one block by block, and explain what failed."""
        results: list[CaseComparison] = []
        findings: list[PrecisionFinding] = []
        figures: dict[str, float] = {}
        failures = CaseFailures()
        self.reference.prepare(self.dtype)  # all of Hugging Face before the subject: each side loads its model once
        for case in self.reference.cases:
            if failures.ended:
                failures.left_out.append(case.name)
                continue
            with failures.keep(case.name):
                if verdict := self._compare_next(results, case):
                    return verdict
                if case is self.reference.cases[0] and self._uses_lens(results[-1]):
                    findings, figures = self._measure_precision(results[-1])
                remove_if_passed(results[-1])
        if not results:
            failures.raise_first()
        compared = [result.label for result in results]
        skip = failures.ended or (bool(failures.errors) and results[0].failed)  # enough is known
        with failures.keep(f"{compared[0]}, block by block"):
            results += self._compare_block_by_block(results[0], skip=skip)
        if results[-1].substitutes:
            return build_not_run_verdict(results[-1], self.reference.describe_coverage())
        verdict = self._explain(self._build_verdict(results, figures), results)
        verdict = add_failures(verdict, failures, compared)
        return add_precision(verdict, findings, self.inputs.model.precision_policy)

    def _compare_next(self, results: list[CaseComparison], case: InputCase) -> Verdict | None:
        """Add the comparison of a case; return the check's verdict where nothing can be said, or something else ran."""
        if reason := self.reference.get_tolerances(case, self.dtype).untrusted:
            return build_inconclusive_verdict(reason, self.reference.describe_coverage())
        results.append(self.runner.compare_end_to_end(case, self.dtype, self.spec))
        if not results[-1].substitutes:
            return None
        remove_if_passed(results[-1])
        return build_not_run_verdict(results[-1], self.reference.describe_coverage())

    def _compare_block_by_block(self, batch: CaseComparison, *, skip: bool) -> list[CaseComparison]:
        """Compare each block on the expected input too, in float32.

        There no noise of earlier blocks has gathered.
        """
        if skip or self.dtype != "float32" or batch.teacher_forced or batch.diff.problems:
            return []
        result = self.runner.compare(batch.case, self.dtype, self.spec, teacher_forced=True)
        return [result if batch.failed else remove_if_passed(result)]

    def _build_verdict(self, results: list[CaseComparison], figures: dict[str, float]) -> Verdict:
        """Build the verdict over the compared cases, with the reference's fingerprint and the lens's figures."""
        coverage = {**self.reference.describe_coverage(), **describe_uncaptured(results)}
        verdict = build_verdict(results, coverage=coverage)
        first = results[0].case is self.reference.cases[0]
        if first and (fingerprint := self.reference.fingerprint) is not None:
            verdict = replace(verdict, figures={**verdict.figures, FINGERPRINT: fingerprint})
        if figures:
            lens = {"precision": self.reference.lens.describe_coverage()}
            verdict = replace(verdict, figures={**verdict.figures, **figures}, coverage={**verdict.coverage, **lens})
        return verdict

    def _explain(self, verdict: Verdict, results: list[CaseComparison]) -> Verdict:
        """Add the first failed case's root cause, unless the check is repeated without a compile cache."""
        explained = self.explain and not has_compile_cache(self.runner.subject)
        if not explained or verdict.failure_class in (None, "environment"):
            return verdict
        failed = next(result for result in results if result.failed)
        teacher_forced = (result for result in results if result.teacher_forced and result.case is failed.case)
        analysis = RootCauseAnalysis(
            reference=self.reference,
            failed=failed,
            teacher_forced=next(teacher_forced, None),
            spec=self.spec,
            cross_check=self.cross_check,
            formats=self.inputs.formats,
            run_case=self.runner.compare_again,
            workdir=Path(self.inputs.workdir),
            passed_in_float32=failed.tolerances.dtype != "float32" and self.passed_in_float32,
        )
        return add_diagnosis(verdict, analysis.diagnose())

    def _uses_lens(self, case: CaseComparison) -> bool:
        """Return whether a precision finding would mean something: the function itself must be right."""
        right = not case.failed or self.passed_in_float32
        return is_lens_dtype(case.tolerances.dtype) and right and not (case.diff.problems or case.substitutes)

    def _measure_precision(self, case: CaseComparison) -> tuple[list[PrecisionFinding], dict[str, float]]:
        """Return the findings of the precision lens on the batch, and what it reports beside them."""
        trace, lens = TraceReader(case.path), self.reference.lens
        feed = self.reference.get_teacher_trace(case.case) if case.teacher_forced else None
        with self.runner.costs.time_comparison():
            findings = lens.find(trace, feed=feed, excused=case.symmetries)
            figures = {"error_correlation": lens.correlate(trace), "precision_operations": float(lens.operations)}
        return findings, {f"{case.tolerances.dtype}.{key}": value for key, value in figures.items()}
