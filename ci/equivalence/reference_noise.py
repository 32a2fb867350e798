"""How far Hugging Face's own variants are from the expected trace: the noise that is no error."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ci.equivalence.inputs import InputCase
from ci.equivalence.reference_runner import ReferenceRunner
from ci.equivalence.trace_compare import TraceComparison, TraceDiff
from ci.errors import SubjectError
from ci.subjects.base import DType
from ci.subjects.trace_files import TraceReader


@dataclass(frozen=True)
class ReferenceNoise:
    """Measures the noise over a case and its parts, `group`, in one dtype; `observe` sees each variant's trace.

    With `teacher_forced` each block gets the expected input. `missing` maps a variant that does not run to the reason.
    """

    runner: ReferenceRunner
    expected: TraceReader
    whole: InputCase
    group: Sequence[InputCase]
    dtype: DType
    teacher_forced: bool
    observe: Callable[[TraceReader], None]
    missing: dict[str, str] = field(default_factory=dict)

    def measure(self, variants: Sequence[dict[str, str]]) -> dict[str, list[TraceDiff]]:
        """Compare each variant with the expected trace; return the differences by case.

        One trace is on disk at a time. Raises SubjectError where no variant runs.
        """
        diffs: dict[str, list[TraceDiff]] = {case.name: [] for case in self.group}
        for variant in variants:
            if (trace := self._run_variant(variant)) is None:
                continue
            for case in self.group:
                diffs[case.name].append(self._compare(trace, case))
            self.observe(trace)
            shutil.rmtree(trace.path)
        if not any(diffs.values()):
            reasons = "; ".join(self.missing.values())
            raise SubjectError(f"Hugging Face: no variant runs in {self.dtype}: {reasons}")
        return diffs

    def _run_variant(self, variant: dict[str, str]) -> TraceReader | None:
        """Run a variant; None where it does not run: a kernel that this device or dtype lacks is one noise less."""
        teacher = self.expected if self.teacher_forced else None
        try:
            return self.runner.run_trace(self.whole, self.dtype, variant, "noise", teacher=teacher)
        except SubjectError as refused:
            name = ", ".join(f"{axis}={choice}" for axis, choice in variant.items())
            self.missing[name] = str(refused)[-120:]
            return None

    def _compare(self, trace: TraceReader, case: InputCase) -> TraceDiff:
        comparison = TraceComparison(
            *(trace, self.expected, case.keep),
            expected_slice=case.part,
            actual_slice=case.part,
            all_figures=False,
            carry_flips=not self.teacher_forced,
            device=self.runner.device,
            images=case.image_tokens,
        )
        with self.runner.costs.time_comparison():
            return comparison.run()
