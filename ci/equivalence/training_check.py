"""The checks of training for one converted model: steps in a layout, resuming, and changing the layout."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ci.equivalence.capture_signature import CapturedGroup
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.inputs import InputCase
from ci.equivalence.layout_proof import describe_layout, list_layout_problems
from ci.equivalence.training_compare import TrainingComparison, TrainingRun, build_training_verdict
from ci.equivalence.training_finding import TrainingFinding, describe_disagreement
from ci.equivalence.training_reference import TrainingReference
from ci.layouts import LAYOUTS, Layout
from ci.subjects.images import split_images, take_images
from ci.subjects.training import Trainable

if TYPE_CHECKING:
    from ci.equivalence.training_reference import TrainingExpectation
    from ci.equivalence.verdict import Verdict
    from ci.evidence import Measure
    from ci.subjects.trace_files import TraceReader
    from ci.subjects.training import TrainRequest


@dataclass
class TrainingCheck:
    """Holds a subject's steps in one layout against Hugging Face's. Without `explain` a failure has no cause."""

    reference: ReferenceRun
    steps: TrainingReference
    subject: Trainable
    subject_path: str
    workdir: Path
    layout: Layout = field(default_factory=lambda: LAYOUTS["single"])
    auxiliary_loss: float = 0.0
    recompute: str = "none"
    explain: bool = True
    variant: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> Verdict:
        """Run the steps and compare them. Raises what the subject raises for a layout that it refuses."""
        comparison = TrainingComparison(self.expected, self._run(), self.reference.params.compare_factor)
        measures = list(comparison.measure())
        problems = self._list_problems(comparison)
        failed = any(not measure.passed for measure in measures)
        finding = self._find_cause(comparison, measures) if failed and self.explain else ""
        ran = comparison.run.result.ran
        return build_training_verdict(measures, problems, finding, self._describe_coverage(comparison), ran)

    @cached_property
    def expected(self) -> TrainingExpectation:
        """What must come out."""
        return self.steps.get(self.layout, self.auxiliary_loss)

    def build_request(self, name: str) -> TrainRequest:
        """Build the subject's request; it writes to the directory `name`."""
        return replace(
            self.expected.request,
            checkpoint=self.subject_path,
            output=str(self.workdir / name),
            dtype="float32",
            recompute=self.recompute,
            variant=dict(self.variant),
        )

    def _run(self) -> TrainingRun:
        request = self.build_request(f"run-{self.layout.name}-{self.auxiliary_loss:g}")
        shutil.rmtree(request.output, ignore_errors=True)
        self.reference.lease.acquire(self.subject)
        with self.reference.costs.clock.measure("forward", f"subject training layout={self.layout.name}"):
            result = self.subject.train(request)
        return TrainingRun(result, Path(request.output))

    def _list_problems(self, comparison: TrainingComparison) -> list[str]:
        result, problems = comparison.run.result, list[str]()
        problems += list_layout_problems(self.layout, result, self.reference.float64_bytes // 8)
        if (ran := result.ran.get("recompute", "none")) != self.recompute:
            problems.append(f"recompute={ran} ran instead of {self.recompute}")
        if result.disagreements:
            problems.append(describe_disagreement(result.disagreements, result.ranks))
        return problems

    def _find_cause(self, comparison: TrainingComparison, measures: list[Measure]) -> str:
        parts = self.steps.make_parts(self.layout, self.auxiliary_loss)
        return TrainingFinding(comparison, self.layout, measures, parts, self._capture).describe()

    def _capture(self) -> CapturedGroup | None:
        """Run one step again with captures; return those of the first document's first wrong stage."""
        request = replace(self.build_request("captured"), steps=1, capture=True)
        shutil.rmtree(request.output, ignore_errors=True)
        result = self.subject.train(request)
        files = [Path(request.output) / "captures" / f"rank-{rank.rank}.safetensors" for rank in result.ranks]
        if not all(file.is_file() for file in files):
            return None
        first = next((r.groups.get("tensor", (r.rank,)) for r in result.ranks if r.rank == 0), (0,))
        stages = result.ranks[0].groups.get("pipeline", (0,))
        merged: list[dict[str, object]] = [{} for _ in first]
        for stage in stages:
            members = next(r.groups.get("tensor", (r.rank,)) for r in result.ranks if r.rank == stage)
            for index, rank in enumerate(members):
                merged[index] |= load_file(files[rank])
        return CapturedGroup(first, merged, self._trace_document())  # type: ignore[arg-type]

    def _trace_document(self) -> dict[str, object]:
        """Return Hugging Face's float64 trace of the first document."""
        inputs = load_file(self.steps.inputs)
        ids = inputs["input_ids"][:1, : int(inputs["lengths"][0])]
        images = split_images(take_images(inputs), len(inputs["lengths"]))[0]
        case = InputCase("document", ids, rows=("document",), images=images)
        trace: TraceReader = self.reference.runner.run_trace(case, self.reference.expected_dtype, {}, "document")
        return {name: trace.tensor(name) for name in trace}

    def _describe_coverage(self, comparison: TrainingComparison) -> dict[str, str]:
        request, inputs = self.expected.request, load_file(self.steps.inputs)
        count, settings = self.layout.documents * request.steps, request.optimizer
        tokens = inputs["loss_mask"][:count].sum(1).tolist()
        coverage = {
            "layout": describe_layout(self.layout, comparison.run.result),
            "training": f"{request.steps} steps of {self.layout.documents} documents; counted tokens {tokens}",
            "optimizer": f"AdamW, epsilon {settings.epsilon:g}, clipped at {settings.max_gradient_norm:g}",
        }
        if self.auxiliary_loss:
            coverage["balancing loss"] = f"coefficient {self.auxiliary_loss:g}, mean over the step's documents"
        return coverage
