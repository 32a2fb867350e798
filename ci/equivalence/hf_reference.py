"""Hugging Face's side of the comparison: inputs, expected traces, and its own noise in each dtype.

All of it is measured once for a model. Each further variant of the subject costs only its own forward pass.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ci.equivalence import inputs
from ci.equivalence.device_usage import CostMeter, DeviceLease
from ci.equivalence.expert_routing import count_idle_experts
from ci.equivalence.inputs import InputCase, InputRequirements
from ci.equivalence.kept_trace import KeptMemory, KeptTrace
from ci.equivalence.noise_floor import combine_variants, explain_untrusted, measure_floors
from ci.equivalence.precision_lens import PrecisionLens, is_lens_dtype
from ci.equivalence.reference_noise import ReferenceNoise
from ci.equivalence.reference_runner import ReferenceRunner
from ci.equivalence.tolerances import EAGER_MEMORY_SHARE, FLOAT64_MEMORY_SHARE, Tolerances
from ci.equivalence.trace_compare import TraceDiff, extract_teacher_trace
from ci.errors import InfrastructureError, RequestError, SubjectError
from ci.models import TestParams
from ci.subjects.base import DType, HuggingFaceRunner
from ci.subjects.memory import free_memory, weight_bytes
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import LOGITS

if TYPE_CHECKING:
    from collections.abc import Callable


BATCH_GROWTH = (2, 4, 8)
"""The factors by which the batch grows, in turn, until every expert has received a token."""
BATCHED_EXPERTS = "batched_mm"
"""Copies the experts for each token: too large for a production model, so it is no noise variant here."""


@dataclass
class ReferenceRun:
    """Runs Hugging Face over one checkpoint directory, each trace on first use; traces stay in `workdir`.

    `derived` says that the checkpoint was made from another one, beside whose reference it is compared.
    """

    checkpoint: Path
    params: TestParams
    hugging_face: HuggingFaceRunner
    device: str
    workdir: Path
    seed: int = inputs.SEED
    costs: CostMeter = field(default_factory=CostMeter)
    derived: bool = False
    lease: DeviceLease = field(init=False)
    runner: ReferenceRunner = field(init=False)
    _expected: dict[str, TraceReader] = field(default_factory=dict)
    _failed: dict[str, SubjectError] = field(default_factory=dict)
    _teacher: dict[str, TraceReader] = field(default_factory=dict)
    _tolerances: dict[tuple[str, DType, bool], Tolerances] = field(default_factory=dict)
    _cases: tuple[InputCase, ...] = ()
    _idle_experts: int | None = None
    _missing_variants: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Run nothing yet."""
        self.lease = DeviceLease(self.device)
        self.runner = ReferenceRunner(
            self.checkpoint, self.hugging_face, self.device, self.workdir, self.lease, self.costs
        )

    def for_checkpoint(self, checkpoint: Path, workdir: Path, cases: tuple[InputCase, ...] = ()) -> ReferenceRun:
        """Return a run over another checkpoint, on the same device.

        The inputs are `cases`; without them, those that the checkpoint's config asks for.
        """
        costs = CostMeter(clock=self.costs.clock)
        run = ReferenceRun(
            checkpoint, self.params, self.hugging_face, self.device, workdir, seed=self.seed, costs=costs, derived=True
        )
        run._cases = cases
        return run

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        try:
            return dict(json.loads((self.checkpoint / "config.json").read_bytes()))
        except (OSError, ValueError) as problem:
            raise RequestError(f"{self.checkpoint / 'config.json'}: cannot be read: {problem}") from None

    @cached_property
    def requirements(self) -> InputRequirements:
        """What the inputs must reach."""
        return inputs.read_requirements(self.config)

    @cached_property
    def model_dtype(self) -> DType:
        """The dtype that the checkpoint was published in."""
        return inputs.read_published_dtype(self.config)

    @cached_property
    def expected_dtype(self) -> DType:
        """float64 where the float64 weights fit their share of the free memory, else float32."""
        return "float64" if self.float64_bytes < FLOAT64_MEMORY_SHARE * self.free_bytes else "float32"

    @property
    def gradient_dtype(self) -> DType:
        """The same for gradients: they take as much memory again as the weights."""
        return "float64" if 2 * self.float64_bytes < FLOAT64_MEMORY_SHARE * self.free_bytes else "float32"

    @cached_property
    def float64_bytes(self) -> int:
        """Bytes of the weights in float64, computed from their bytes on disk in the published dtype."""
        return weight_bytes(self.checkpoint, 8, stored=4 if self.model_dtype == "float32" else 2)

    @cached_property
    def free_bytes(self) -> int:
        """Free memory of the device before anything was loaded."""
        return free_memory(self.device)

    @cached_property
    def fingerprint(self) -> float | None:
        """One number for the direction of the expected logits; None where these are float32, so noisy themselves.

        It changes when Hugging Face's answer to the same inputs does.
        """
        if self.expected_dtype != "float64":
            return None
        logits = self.get_expected_trace(self.cases[0]).tensor(LOGITS, device=self.device)
        logits = logits[self.cases[0].keep.to(self.device)].double()
        tokens, words = (torch.arange(size, dtype=torch.float64).cos().to(self.device) for size in logits.shape)
        return float(tokens @ logits @ words / logits.norm())

    @cached_property
    def lens(self) -> PrecisionLens:
        """The precision lens over the batch; it has Hugging Face's figures once the tolerances were measured."""
        batch = self.cases[0]
        expected, attends = self.get_expected_trace(batch), self._eager_fits(batch)
        return PrecisionLens(expected, self.config, batch.keep, self.device, attends=attends)

    @cached_property
    def _kept(self) -> KeptMemory:
        """The memory in which tensors of expected traces stay: of the first checkpoint alone."""
        return KeptMemory() if self.derived else KeptMemory.beside_models(self.device, self.free_bytes)

    @property
    def cases(self) -> tuple[InputCase, ...]:
        """The inputs; the batch is grown until every expert has received a token."""
        if not self._cases:
            text = inputs.tokenize_text(self.checkpoint, self.requirements.vocabulary)
            cases = inputs.build_cases(
                self.requirements, self.params, text=text, free_bytes=self.free_bytes, seed=self.seed
            )
            self._cases = self._grow_for_experts(cases) if self.requirements.experts else cases
        return self._cases

    def leave_out_text(self) -> None:
        """Compare no case of text alone where the model has images.

        The model's own forward pass has one; where it fails there, it need not hide what another check looks for.
        """
        if self.requirements.images:
            self._cases = tuple(case for case in self.cases if case.images)

    def prepare(self, dtype: DType, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Measure everything that the comparisons in a dtype need.

        The model is loaded once for all cases. Before each trace `stop` is asked whether to leave the rest. A case that
        fails leaves the others alone: its own comparison raises the error again.
        """
        work: list[Callable[[], object]] = [partial(self.get_expected_trace, case) for case in self.cases]
        work += [partial(self.get_tolerances, case, dtype) for case in self.cases]
        if dtype == "float32":
            work.append(partial(self.get_tolerances, self.cases[0], dtype, teacher_forced=True))
        for measure in work:
            if stop():
                return
            with suppress(SubjectError, InfrastructureError):
                measure()

    def describe_coverage(self) -> dict[str, str]:
        """Say what the inputs and the reference run reach, and what they do not."""
        coverage = inputs.describe_coverage(self.requirements, self.cases, free_bytes=self.free_bytes)
        if self.requirements.experts:
            coverage["experts"] = self._describe_experts()
        if missing := "; ".join(self._missing_variants):
            coverage["noise"] = f"Hugging Face does not run {missing} here: its noise is not in the floor"
        side = self.hugging_face.describe_side(str(self.checkpoint))
        coverage["oracle"] = f"Hugging Face in {self.expected_dtype}, {side}"
        if self.expected_dtype != "float64":
            coverage["oracle"] += f": float64 does not fit in {self.free_bytes / 1e9:.1f} GB of free memory"
        return coverage

    def get_expected_trace(self, case: InputCase) -> TraceReader:
        """Return the trace that a subject is compared with.

        A part of another case shares that case's trace. A forward pass that failed is not run again.
        """
        name = case.part_of or case.name
        if name in self._failed:
            raise self._failed[name]
        if name not in self._expected:
            whole = next(c for c in self._cases if c.name == name) if case.part_of else case
            variant = self.runner.choose_variant("eager" if self._eager_fits(whole) else "sdpa")
            try:
                memory = self._kept  # it is allocated before the first model
                trace = self.runner.run_trace(whole, self.expected_dtype, variant, f"expected-{name}")
                self._expected[name] = KeptTrace(trace.path, memory)
            except SubjectError as failed:
                self._failed[name] = failed
                raise
        return self._expected[name]

    def get_teacher_trace(self, case: InputCase) -> TraceReader:
        """Return the expected trace that teacher forcing feeds to a subject: of a part, that part."""
        if not case.part_of:
            return self.get_expected_trace(case)
        if case.name not in self._teacher:
            target = self.workdir / f"teacher-{case.name}"
            self._teacher[case.name] = extract_teacher_trace(self.get_expected_trace(case), case.part, target)
        return self._teacher[case.name]

    def get_tolerances(self, case: InputCase, dtype: DType, *, teacher_forced: bool = False) -> Tolerances:
        """Return the tolerances of a case in a dtype, of teacher-forced blocks where asked."""
        if (case.name, dtype, teacher_forced) not in self._tolerances:
            whole = next(c for c in self.cases if c.name == (case.part_of or case.name))
            noise = self._measure_noise(whole, dtype, teacher_forced=teacher_forced)
            for name, diffs in noise.items():
                together = [*diffs, *noise[whole.name]]  # a part alone is too small a sample of the noise
                self._tolerances[name, dtype, teacher_forced] = Tolerances(
                    dtype, measure_floors(together), self.params.compare_factor, explain_untrusted(together, dtype)
                )
        return self._tolerances[case.name, dtype, teacher_forced]

    def list_variants(self, case: InputCase) -> tuple[dict[str, str], ...]:
        """List the Hugging Face variants that make the noise floor of a case."""
        offered = [v for v in self.hugging_face.variants(str(self.checkpoint)) if v.name != BATCHED_EXPERTS]
        if not self._eager_fits(case):
            offered = [v for v in offered if v.name != "eager" or v.axis != "attention"]
        return combine_variants(offered)

    def _measure_noise(self, whole: InputCase, dtype: DType, *, teacher_forced: bool) -> dict[str, list[TraceDiff]]:
        """Measure the noise of a case and its parts; the batch's also goes to the precision lens."""
        group = [case for case in self.cases if whole.name in (case.name, case.part_of)]
        through_lens = whole is self.cases[0] and is_lens_dtype(dtype) and not teacher_forced

        def observe(trace: TraceReader) -> None:
            if through_lens:
                with self.costs.time_comparison():
                    self.lens.add_floor(trace)

        expected = self.get_expected_trace(whole)
        noise = ReferenceNoise(
            self.runner, expected, whole, group, dtype, teacher_forced, observe, self._missing_variants
        )
        return noise.measure(self.list_variants(whole))

    def _eager_fits(self, case: InputCase) -> bool:
        """Return whether eager attention's scores fit their share of the free memory.

        They are one (T, T) matrix a row and head, three times in float64.
        """
        rows, length = case.ids.shape
        return 24 * rows * self.requirements.heads * length**2 < EAGER_MEMORY_SHARE * self.free_bytes

    def _grow_for_experts(self, cases: tuple[InputCase, ...]) -> tuple[InputCase, ...]:
        """Grow the batch until no expert is idle in the expected trace.

        The batch stops growing once it has more than BATCH_TOKENS tokens.
        """
        batch, *rest = cases
        for factor in (1, *BATCH_GROWTH):
            self._expected.pop("batch", None)
            grown = inputs.grow_batch(batch, self.requirements, factor) if factor > 1 else batch
            self._idle_experts = count_idle_experts(
                self.get_expected_trace(grown), self.requirements.experts, keep=grown.keep
            )
            if not self._idle_experts or grown.ids.numel() > inputs.BATCH_TOKENS:
                break
        alone = inputs.extract_last_document(grown)
        return (grown, *(alone if case.name == alone.name else case for case in rest))

    def _describe_experts(self) -> str:
        if self._idle_experts is None:
            return "not covered: Hugging Face's choice of experts is not captured, so nobody knows which were used"
        if self._idle_experts:
            return f"not covered: {self._idle_experts} received no token"
        return f"each of {self.requirements.experts} in every layer received a token"
