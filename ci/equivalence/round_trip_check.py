"""The check of an exported checkpoint: tensors bit for bit, config, companions, and its forward in Hugging Face."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ci.equivalence import round_trip
from ci.equivalence.case_result import CaseComparison
from ci.equivalence.companions import compare_companions, count_companions
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.device_usage import CostMeter
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.trace_compare import TraceComparison
from ci.equivalence.verdict import Verdict, apply_policy, build_verdict
from ci.errors import SubjectError
from ci.subjects.base import HuggingFaceRunner
from ci.subjects.sandbox import Isolation


@dataclass(frozen=True)
class RoundTripCheck:
    """Compares an export with the checkpoint it came from; `isolation` is that of rewritten chat templates."""

    inputs: ComparisonInputs
    reference: ReferenceRun
    hugging_face: HuggingFaceRunner
    isolation: Isolation
    costs: CostMeter

    def run(self, exported: Path) -> Verdict:
        """Compare tensors, config, companions and forward; an export that does not load is a config mismatch."""
        original, keys = Path(self.inputs.hf_path), None
        try:
            before, after = (round_trip.resolve_config(path, self.hugging_face) for path in (original, exported))
            keys = round_trip.compare_configs(before, after)
            tied = bool(before.get("tie_word_embeddings"))
            with self.costs.clock.measure("compare", "exported checkpoint"):
                tensors = tuple(round_trip.compare_checkpoints(original, exported, tied=tied))
            forward = build_verdict([self._compare_forward(exported)], coverage={})
            verdict = round_trip.build_round_trip_verdict(tensors, keys, forward)
        except SubjectError as error:
            verdict = Verdict(False, failure_class="config_mismatch", diagnosis=str(error), component="conversion")
        return self._add_companions(verdict, original, exported, keys)

    def _add_companions(
        self, verdict: Verdict, original: Path, exported: Path, keys: tuple[round_trip.KeyChange, ...] | None
    ) -> Verdict:
        """Add what lies beside the weights, also of an export that Hugging Face cannot load."""
        try:
            with self.costs.clock.measure("compare", "companions of the export"):
                companions, findings = compare_companions(original, exported, keys, self.isolation)
        except SubjectError:
            if verdict.passed:
                raise
            return verdict  # the damaged file is its diagnosis already
        verdict = replace(verdict, companions=companions, figures={**verdict.figures, **count_companions(companions)})
        return apply_policy(verdict, findings, "export_incomplete", self.inputs.model.export_policy)

    def _compare_forward(self, exported: Path) -> CaseComparison:
        """Compare the exported checkpoint's forward in Hugging Face with the original's."""
        case = self.reference.cases[0]
        trace = self.reference.runner.run_trace(case, "float32", {}, "exported", checkpoint=exported)
        tolerances = self.reference.get_tolerances(case, "float32")
        comparison = TraceComparison(
            *(trace, self.reference.get_expected_trace(case), case.keep),
            flip_gap_limit=tolerances.get_flip_gap_limit,
            device=self.inputs.device,
            images=case.image_tokens,
        )
        with self.costs.time_comparison():
            diff = comparison.run()
        shutil.rmtree(trace.path)
        return CaseComparison(case, tolerances, diff, ran=trace.result.ran, path=trace.path)
