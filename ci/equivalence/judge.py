"""Runs every check of one converted model and gives its verdict; the rules are in other modules."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.equivalence import round_trip
from ci.equivalence.case_failures import CaseFailures, add_failures, check_each
from ci.equivalence.case_result import CaseComparison
from ci.equivalence.cold_repeat import has_compile_cache, repeat_without_cache
from ci.equivalence.companions import compare_companions, count_companions
from ci.equivalence.config_sensitivity import ConfigSensitivity, build_sensitivity_verdict
from ci.equivalence.device_usage import CostMeter
from ci.equivalence.edited_checkpoint import copy_with_config
from ci.equivalence.gradient_compare import GradientComparison, build_gradient_verdict
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.inputs import read_requirements
from ci.equivalence.nested_config import choose_mixer, count_block_kinds, list_mixer_names
from ci.equivalence.precision_lens import is_lens_dtype
from ci.equivalence.root_cause import MIXER_AXIS, ForwardSpec, RootCauseAnalysis
from ci.equivalence.symmetries import undo_symmetries
from ci.equivalence.synthetic_model import build_far_case, find_reach, shrink_config, write_synthetic_model
from ci.equivalence.tolerances import SYNTHETIC_LAYERS, TEACHER_FORCING_SHARE
from ci.equivalence.trace_compare import TraceComparison, TraceDiff
from ci.equivalence.training_check import TrainingCheck
from ci.equivalence.training_reference import TrainingReference
from ci.equivalence.training_resume import check_layout_conversion, check_resume
from ci.equivalence.verdict import (
    Verdict,
    add_diagnosis,
    add_precision,
    apply_policy,
    build_inconclusive_verdict,
    build_not_run_verdict,
    build_verdict,
    describe_uncaptured,
    find_substitutes,
)
from ci.equivalence.weight_perturbation import perturb_checkpoint
from ci.errors import NotOfferedError, SubjectError
from ci.evidence import FINGERPRINT
from ci.layouts import LAYOUTS
from ci.models import HubModel
from ci.subjects.base import (
    NO_GRADIENTS,
    ConvertRequest,
    Differentiable,
    DType,
    Subject,
    TraceRequest,
    TraceResult,
    Yardstick,
)
from ci.subjects.sandbox import Isolation
from ci.subjects.trace_files import TraceReader
from ci.subjects.training import NO_TRAINING, Trainable
from ci.subjects.worker_process import NO_SANDBOX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.equivalence.inputs import InputCase
    from ci.equivalence.precision_finding import PrecisionFinding

__all__ = ["ComparisonInputs", "Judge", "Verdict"]


@dataclass(frozen=True)
class ComparisonInputs:
    """What is compared: the Hugging Face checkpoint, the subject's conversion of it, where to run and to write."""

    model: HubModel
    hf_path: str
    subject_path: str
    device: str = "cpu"
    workdir: str = "."


@dataclass
class Judge:
    """Compares one subject's conversion of one model with Hugging Face; the reference is run once for all checks.

    `cross_check` is another implementation that reads the subject's checkpoints: it tells a wrong kernel from a wrong
    conversion. `shared_reference` is another judge's reference run over the same checkpoint, `training` its training
    steps. Without `explain` a failure has no root cause. `isolation` is that of rewritten chat templates.
    """

    inputs: ComparisonInputs
    subject: Subject
    hugging_face: Yardstick
    cross_check: Subject | None = None
    shared_reference: ReferenceRun | None = None
    explain: bool = True
    training: TrainingReference | None = None
    isolation: Isolation = NO_SANDBOX
    reference: ReferenceRun = field(init=False)
    costs: CostMeter = field(default_factory=CostMeter)
    _traces: Path = Path()
    _checked: bool = False
    _chosen_mixer: str = ""
    _by_mixer: dict[str, Judge] = field(default_factory=dict)
    _passed: dict[tuple[DType, tuple[tuple[str, str], ...]], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Prepare the reference run; it starts with the first check."""
        self.reference = self.shared_reference or ReferenceRun(
            checkpoint=Path(self.inputs.hf_path),
            params=self.inputs.model.test_params,
            hugging_face=self.hugging_face,
            device=self.inputs.device,
            workdir=Path(self.inputs.workdir) / "reference",
            costs=CostMeter(clock=self.costs.clock),
        )

    def check_forward(self, *, dtype: Literal["float32", "model"], variant: Mapping[str, str]) -> Verdict:
        """Compare the forward pass, in float32 or in the dtype that the model was published in.

        Another main mixer is another function: Hugging Face's side then runs it too.
        """
        if MIXER_AXIS in variant and variant[MIXER_AXIS] != self._chosen_mixer:
            return self._choose_mixer(variant[MIXER_AXIS]).check_forward(dtype=dtype, variant=variant)
        run_dtype: DType = "float32" if dtype == "float32" else self.reference.model_dtype
        reference_costs, subject_costs = self._start_costs()
        verdict = repeat_without_cache(self.subject, lambda: self._check_forward_once(run_dtype, variant))
        self._passed[run_dtype, tuple(sorted(variant.items()))] = verdict.passed
        costs = self._collect_costs(run_dtype, reference_costs, subject_costs)
        return replace(verdict, figures={**verdict.figures, **costs})

    def check_forward_in_dtypes(self, variant: Mapping[str, str]) -> tuple[Verdict, ...]:
        """Compare the forward pass in float32 and in the model's dtype; an error in one leaves the other judged."""
        check = self.check_forward
        return check_each(
            {
                "float32": lambda: check(dtype="float32", variant=variant),
                "model's dtype": lambda: check(dtype="model", variant=variant),
            }
        )

    def check_round_trip(self, exported_path: str) -> Verdict:
        """Compare the exported checkpoint: tensors bit for bit, config, and its forward in stock Hugging Face."""
        original, exported = Path(self.inputs.hf_path), Path(exported_path)
        try:
            before, after = (round_trip.resolve_config(path, self.hugging_face) for path in (original, exported))
            keys = round_trip.compare_configs(before, after)
            tied = bool(before.get("tie_word_embeddings"))
            with self.costs.clock.measure("compare", "exported checkpoint"):
                tensors = tuple(round_trip.compare_checkpoints(original, exported, tied=tied))
            forward = build_verdict([self._compare_exported(exported)], coverage={})
        except SubjectError as error:
            return Verdict(passed=False, failure_class="config_mismatch", diagnosis=str(error), component="conversion")
        verdict = round_trip.build_round_trip_verdict(tensors, keys, forward)
        with self.costs.clock.measure("compare", "companions of the export"):
            companions, findings = compare_companions(original, exported, keys, self.isolation)
        verdict = replace(verdict, companions=companions, figures={**verdict.figures, **count_companions(companions)})
        return apply_policy(verdict, findings, "export_incomplete", self.inputs.model.export_policy)

    def check_config_sensitivity(self) -> Verdict:
        """Change each config key: the subject's answer must move with Hugging Face's."""
        if reason := self.reference.get_tolerances(self.reference.cases[0], "float32").untrusted:
            return build_inconclusive_verdict(reason, self.reference.describe_coverage())
        return repeat_without_cache(self.subject, self._check_config_once)

    def check_weight_liveness(self) -> Verdict:
        """Perturb every tensor on disk, convert again, and compare in float32: the subject must answer alike."""
        with self._make_directory("perturbed-") as workdir:
            source = workdir / "model"
            perturb_checkpoint(Path(self.inputs.hf_path), source)
            return self._convert_other(source, workdir).check_forward(dtype="float32", variant={})

    def check_layer_order(self) -> tuple[Verdict, ...]:
        """Compare a thin synthetic model of many layers: two layers cannot show that they are in another order."""
        config = shrink_config(self.reference.config, SYNTHETIC_LAYERS)
        with self._make_directory("layers-") as workdir:
            judge = self._convert_other(write_synthetic_model(config, workdir / "model", self.hugging_face), workdir)
            verdict = judge.check_forward(dtype="float32", variant={})
            coverage = {"inputs": verdict.coverage["inputs"], "layers": f"{SYNTHETIC_LAYERS} of a thin synthetic model"}
            return (replace(verdict, coverage=coverage),)

    def check_positions(self) -> tuple[Verdict, ...]:
        """Compare a thin synthetic model at far positions, in float32 and in the model's dtype."""
        kinds = self.reference.config.get("layer_types") or ()
        count = max(1, len(set(kinds)), count_block_kinds(self.reference.config))
        config = shrink_config(self.reference.config, count)
        reach = find_reach(read_requirements(config), self.reference.device, self.reference.free_bytes)
        with self._make_directory("positions-") as workdir:
            source = write_synthetic_model(config, workdir / "model", self.hugging_face)
            judge = self._convert_other(source, workdir, (build_far_case(reach.length, self.reference.seed),))
            verdicts = judge.check_forward_in_dtypes({})
            return tuple(replace(verdict, coverage={"positions": str(reach)}) for verdict in verdicts)

    def _choose_mixer(self, name: str) -> Judge:
        """Return the judge of the same conversion, whose reference run has another main mixer in every block."""
        if name not in self._by_mixer:
            workdir = Path(self.inputs.workdir) / f"mixer-{name}"
            source = copy_with_config(
                Path(self.inputs.hf_path), workdir / "model", choose_mixer(self.reference.config, name)
            )
            inputs = replace(self.inputs, hf_path=str(source), workdir=str(workdir))
            reference = self.reference.for_checkpoint(source, workdir / "reference")
            judge = Judge(inputs, self.subject, self.hugging_face, self.cross_check, shared_reference=reference)
            judge._chosen_mixer = name
            self._by_mixer[name] = judge
        return self._by_mixer[name]

    def _convert_other(self, source: Path, workdir: Path, cases: tuple[InputCase, ...] = ()) -> Judge:
        """Convert another checkpoint of the same format, and return the judge of that conversion."""
        converted = workdir / "converted"
        with self.costs.clock.measure("convert", "import"):
            self.subject.convert(ConvertRequest(str(source), str(converted), *self._formats))
        inputs = replace(self.inputs, hf_path=str(source), subject_path=str(converted), workdir=str(workdir))
        reference = self.reference.for_checkpoint(source, workdir / "reference", cases)
        costs = CostMeter(clock=self.costs.clock)
        return Judge(inputs, self.subject, self.hugging_face, self.cross_check, shared_reference=reference, costs=costs)

    def check_gradients(self) -> Verdict:
        """Compare every parameter's gradient in float32. Raises NotOfferedError for a subject that cannot train."""
        if not isinstance(self.subject, Differentiable):
            raise NotOfferedError(NO_GRADIENTS)
        subject = self.subject
        return repeat_without_cache(subject, lambda: self._check_gradients_once(subject))

    def check_gradients_of_mixers(self) -> tuple[Verdict, ...]:
        """Compare the gradients, where several mixers take turns those of each of them. Raises as above."""
        names = self.list_mixers() or ("",)
        return check_each({f"mixer {name}": partial(_check_mixer_gradients, self, name) for name in names})

    def check_training(
        self, layout: str = "single", *, recompute: str = "none", auxiliary_loss: bool = False
    ) -> Verdict:
        """Compare whole optimizer steps in a layout: losses, norms, gradients, updates.

        Raises NotOfferedError for a subject that cannot train, and UnsupportedError for a layout that it refuses.
        """
        check = self._prepare_training(layout)
        check.recompute = recompute
        check.auxiliary_loss = check.steps.auxiliary_loss if auxiliary_loss else 0.0
        return repeat_without_cache(self.subject, check.check)

    def list_mixers(self) -> tuple[str, ...]:
        """List the mixers that take turns in some block, none for a model without."""
        return list_mixer_names(self.reference.config)

    def choose_mixer(self, name: str) -> Judge:
        """Return the judge of the same conversion with another main mixer; "" is this judge."""
        return self._choose_mixer(name) if name else self

    def check_resume(self) -> Verdict:
        """Compare a step after a resume with the same step without, and damaged checkpoints. Raises as above."""
        return check_resume(self._prepare_training("single"))

    def check_layout_conversion(self, layouts: tuple[str, ...]) -> Verdict:
        """Save in each layout, load in one process, and compare exports bit for bit. Raises as above."""
        return check_layout_conversion(self._prepare_training("single"), layouts)

    def _prepare_training(self, layout: str) -> TrainingCheck:
        if not isinstance(self.subject, Trainable):
            raise NotOfferedError(NO_TRAINING)
        workdir = Path(self.inputs.workdir) / "training"
        workdir.mkdir(parents=True, exist_ok=True)
        if self.training is None:
            self.training = TrainingReference(self.reference, self._formats, workdir / "expected")
        path = self.inputs.subject_path
        check = TrainingCheck(
            self.reference, self.training, self.subject, path, workdir, LAYOUTS[layout], explain=self.explain
        )
        check.variant = self._mixer_variant
        return check

    @property
    def _mixer_variant(self) -> dict[str, str]:
        """The subject's variant of the chosen mixer, none where there is no choice."""
        return {MIXER_AXIS: self._chosen_mixer} if self._chosen_mixer else {}

    def _check_forward_once(self, dtype: DType, variant: Mapping[str, str]) -> Verdict:
        with self._make_directory("traces-") as self._traces:
            return self._compare_forward(dtype, variant)

    def _check_config_once(self) -> Verdict:
        with self._make_directory("keys-") as workdir:
            check = ConfigSensitivity(self.reference, self.subject, self._formats, workdir)
            results = list(check.try_changes())
            return build_sensitivity_verdict(results, check.list_untried_keys(), check.base_error)

    def _check_gradients_once(self, subject: Differentiable) -> Verdict:
        with self._make_directory("gradients-") as workdir:
            path = self.inputs.subject_path
            comparison = GradientComparison(self.reference, subject, path, self._formats, workdir, self._mixer_variant)
            return build_gradient_verdict(comparison.measure())

    def _compare_forward(self, dtype: DType, variant: Mapping[str, str]) -> Verdict:
        spec = ForwardSpec(self.subject, self.inputs.subject_path, variant)
        coverage = self.reference.describe_coverage
        results: list[CaseComparison] = []
        findings: list[PrecisionFinding] = []
        figures: dict[str, float] = {}
        failures = CaseFailures()
        self.reference.prepare(dtype)  # all of Hugging Face before the subject: each side loads its model once
        for case in self.reference.cases:
            if failures.ended:
                failures.left_out.append(case.name)
                continue
            with failures.keep(case.name):
                if verdict := self._compare_next(results, case, dtype, spec):
                    return verdict
                if case is self.reference.cases[0] and self._uses_lens(results[-1], variant):
                    findings, figures = self._measure_precision(results[-1])
                _remove_if_passed(results[-1])
        if not results:
            failures.raise_first()
        compared = [result.label for result in results]
        skip = failures.ended or (bool(failures.errors) and results[0].failed)  # enough is known
        with failures.keep(f"{compared[0]}, block by block"):
            results += self._compare_block_by_block(results[0], dtype, spec, skip=skip)
        if results[-1].substitutes:
            return build_not_run_verdict(results[-1], coverage())
        verdict = build_verdict(results, coverage={**coverage(), **describe_uncaptured(results)})
        if results[0].case is self.reference.cases[0] and (fingerprint := self.reference.fingerprint) is not None:
            verdict = replace(verdict, figures={**verdict.figures, FINGERPRINT: fingerprint})
        if figures:
            lens = {"precision": self.reference.lens.describe_coverage()}
            verdict = replace(verdict, figures={**verdict.figures, **figures}, coverage={**verdict.coverage, **lens})
        explained = self.explain and not has_compile_cache(self.subject)  # else it is repeated first
        if explained and verdict.failure_class not in (None, "environment"):
            verdict = add_diagnosis(verdict, self._analyze_root_cause(results, spec).diagnose())
        verdict = add_failures(verdict, failures, compared)
        return add_precision(verdict, findings, self.inputs.model.precision_policy)

    def _compare_next(
        self, results: list[CaseComparison], case: InputCase, dtype: DType, spec: ForwardSpec
    ) -> Verdict | None:
        """Add the comparison of a case; return the check's verdict where nothing can be said, or something else ran."""
        if reason := self.reference.get_tolerances(case, dtype).untrusted:
            return build_inconclusive_verdict(reason, self.reference.describe_coverage())
        results.append(self._compare_end_to_end(case, dtype, spec))
        if not results[-1].substitutes:
            return None
        _remove_if_passed(results[-1])
        return build_not_run_verdict(results[-1], self.reference.describe_coverage())

    def _uses_lens(self, case: CaseComparison, variant: Mapping[str, str]) -> bool:
        """Return whether a precision finding would mean something: the function itself must be right."""
        right = not case.failed or self._passed.get(("float32", tuple(sorted(variant.items()))), False)
        return is_lens_dtype(case.tolerances.dtype) and right and not (case.diff.problems or case.substitutes)

    def _measure_precision(self, case: CaseComparison) -> tuple[list[PrecisionFinding], dict[str, float]]:
        """Return the findings of the precision lens on the batch, and what it reports beside them."""
        trace, lens = TraceReader(case.path), self.reference.lens
        feed = self.reference.get_teacher_trace(case.case) if case.teacher_forced else None
        with self.costs.time_comparison():
            findings = lens.find(trace, feed=feed, excused=case.symmetries)
            figures = {"error_correlation": lens.correlate(trace), "precision_operations": float(lens.operations)}
        return findings, {f"{case.tolerances.dtype}.{key}": value for key, value in figures.items()}

    def _compare_end_to_end(self, case: InputCase, dtype: DType, spec: ForwardSpec) -> CaseComparison:
        """Compare a case; block by block where rounding flips would excuse too many tokens otherwise."""
        result = self._compare_case(case, dtype, spec, teacher_forced=False)
        if result.excused_share > TEACHER_FORCING_SHARE:
            return self._compare_case(case, dtype, spec, teacher_forced=True)
        return result

    def _compare_block_by_block(
        self, batch: CaseComparison, dtype: DType, spec: ForwardSpec, *, skip: bool
    ) -> list[CaseComparison]:
        """Compare each block on the expected input too, in float32.

        There no noise of earlier blocks has gathered.
        """
        if skip or dtype != "float32" or batch.teacher_forced or batch.diff.problems:
            return []
        result = self._compare_case(batch.case, dtype, spec, teacher_forced=True)
        return [result if batch.failed else _remove_if_passed(result)]

    def _compare_case(
        self, case: InputCase, dtype: DType, spec: ForwardSpec, *, teacher_forced: bool
    ) -> CaseComparison:
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
            device=self.inputs.device,
        )
        asked = {**spec.variant, "dtype": dtype, "device": self.inputs.device}
        compared = CaseComparison(
            *(case, tolerances, self._run_comparison(comparison), result.ran, trace.path),
            teacher_forced=teacher_forced,
            substitutes=find_substitutes(asked, {**result.ran, "dtype": result.dtype, "device": result.device}),
        )
        return undo_symmetries(compared, comparison.read_pair)

    def _compare_exported(self, exported: Path) -> CaseComparison:
        """Compare the exported checkpoint's forward in Hugging Face with the original's."""
        case = self.reference.cases[0]
        trace = self.reference.run_trace(case, "float32", {}, "exported", checkpoint=exported)
        tolerances = self.reference.get_tolerances(case, "float32")
        comparison = TraceComparison(
            *(trace, self.reference.get_expected_trace(case), case.keep),
            flip_gap_limit=tolerances.get_flip_gap_limit,
            device=self.inputs.device,
        )
        diff = self._run_comparison(comparison)
        shutil.rmtree(trace.path)
        return CaseComparison(case, tolerances, diff, ran=trace.result.ran, path=trace.path)

    def _run_comparison(self, comparison: TraceComparison) -> TraceDiff:
        with self.costs.time_comparison():
            return comparison.run()

    def _run_subject(
        self, case: InputCase, dtype: DType, spec: ForwardSpec, *, teacher: TraceReader | None
    ) -> tuple[TraceResult, TraceReader]:
        output = self._traces / f"{case.name}-{len(list(self._traces.iterdir()))}"
        request = TraceRequest(
            checkpoint=spec.checkpoint,
            inputs=str(self.reference.write_inputs(case)),
            output=str(output),
            dtype=dtype,
            device=self.inputs.device,
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

    def _analyze_root_cause(self, results: list[CaseComparison], spec: ForwardSpec) -> RootCauseAnalysis:
        """Prepare the analysis of the first failed case."""
        failed = next(result for result in results if result.failed)
        teacher_forced = (result for result in results if result.teacher_forced and result.case is failed.case)
        passed_in_float32 = self._passed.get(("float32", tuple(sorted(spec.variant.items()))), False)
        return RootCauseAnalysis(
            reference=self.reference,
            failed=failed,
            teacher_forced=next(teacher_forced, None),
            spec=spec,
            cross_check=self.cross_check,
            formats=self._formats,
            run_case=self._run_again,
            workdir=Path(self.inputs.workdir),
            passed_in_float32=failed.tolerances.dtype != "float32" and passed_in_float32,
        )

    def _run_again(self, spec: ForwardSpec, like: CaseComparison, *, teacher_forced: bool) -> CaseComparison:
        return self._compare_case(like.case, like.tolerances.dtype, spec, teacher_forced=teacher_forced)

    def _start_costs(self) -> tuple[CostMeter, CostMeter]:
        """Return the sums from which a check's costs count: the first one's contain what was prepared before."""
        first, self._checked = not self._checked, True
        if first:
            return CostMeter(), CostMeter()
        return self.reference.costs.start_interval(), self.costs.start_interval()

    def _collect_costs(self, dtype: DType, reference: CostMeter, subject: CostMeter) -> dict[str, float]:
        """Collect the seconds of each side, and the device's peak in bytes."""
        costs = {
            **self.reference.costs.costs_since(reference, "hugging_face"),
            **self.costs.costs_since(subject, "subject"),
        }
        costs["peak_device_bytes"] = float(max(self.reference.costs.peak_device_bytes, self.costs.peak_device_bytes))
        return {f"{dtype}.{key}": value for key, value in costs.items() if value}

    @contextmanager
    def _make_directory(self, prefix: str) -> Iterator[Path]:
        """Make a directory for the length of the block."""
        parent = Path(self.inputs.workdir)
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    @property
    def _formats(self) -> tuple[str, str]:
        return self.inputs.model.checkpoint_format, self.inputs.model.model_config


def _check_mixer_gradients(judge: Judge, name: str) -> Verdict:
    return judge.choose_mixer(name).check_gradients()


def _remove_if_passed(result: CaseComparison) -> CaseComparison:
    """Remove the trace of a case that passed.

    No diagnosis needs it, and its memory serves the next one.
    """
    if not result.failed:
        shutil.rmtree(result.path, ignore_errors=True)
    return result
