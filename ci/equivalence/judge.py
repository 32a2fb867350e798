"""Runs every check of one converted model and gives its verdict; the rules are in other modules."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ci.equivalence.case_failures import check_each
from ci.equivalence.case_runner import CaseRunner
from ci.equivalence.cold_repeat import repeat_without_cache
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.composite_config import is_composite, take_text
from ci.equivalence.config_sensitivity import ConfigSensitivity, build_sensitivity_verdict
from ci.equivalence.device_usage import CostMeter
from ci.equivalence.edited_checkpoint import copy_with_config
from ci.equivalence.forward_check import ForwardCheck
from ci.equivalence.gradient_compare import GradientComparison, build_gradient_verdict
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.image_inputs import describe_images
from ci.equivalence.inputs import read_requirements
from ci.equivalence.nested_config import choose_mixer, count_block_kinds, list_mixer_names
from ci.equivalence.root_cause import MIXER_AXIS, ForwardSpec
from ci.equivalence.round_trip_check import RoundTripCheck
from ci.equivalence.synthetic_model import build_far_case, find_reach, shrink_config, write_synthetic_model
from ci.equivalence.tolerances import SYNTHETIC_LAYERS
from ci.equivalence.training_check import TrainingCheck
from ci.equivalence.training_reference import TrainingReference
from ci.equivalence.training_resume import check_layout_conversion, check_resume
from ci.equivalence.verdict import Verdict, build_inconclusive_verdict
from ci.equivalence.weight_perturbation import perturb_checkpoint
from ci.errors import NotOfferedError
from ci.layouts import LAYOUTS
from ci.subjects.base import NO_GRADIENTS, ConvertRequest, Differentiable, DType, HuggingFaceRunner, Subject
from ci.subjects.sandbox import NO_SANDBOX, Isolation
from ci.subjects.training import NO_TRAINING, Trainable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci.equivalence.inputs import InputCase


@dataclass
class Judge:
    """Compares one subject's conversion of one model with Hugging Face; the reference is run once for all checks.

    `cross_check` is another implementation that reads the subject's checkpoints: it tells a wrong kernel from a wrong
    conversion. `shared_reference` is another judge's reference run over the same checkpoint, `training` its training
    steps. Without `explain` a failure has no root cause. `isolation` is that of rewritten chat templates.
    """

    inputs: ComparisonInputs
    subject: Subject
    hugging_face: HuggingFaceRunner
    cross_check: Subject | None = None
    shared_reference: ReferenceRun | None = None
    explain: bool = True
    training: TrainingReference | None = None
    isolation: Isolation = NO_SANDBOX
    reference: ReferenceRun = field(init=False)
    costs: CostMeter = field(default_factory=CostMeter)
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
        check = RoundTripCheck(self.inputs, self.reference, self.hugging_face, self.isolation, self.costs)
        return check.run(Path(exported_path))

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
        config = self._shrink_config(SYNTHETIC_LAYERS)
        with self._make_directory("layers-") as workdir:
            judge = self._convert_other(write_synthetic_model(config, workdir / "model", self.hugging_face), workdir)
            verdict = judge.check_forward(dtype="float32", variant={})
            coverage = {"inputs": verdict.coverage["inputs"], "layers": f"{SYNTHETIC_LAYERS} of a thin synthetic model"}
            return (replace(verdict, coverage=coverage),)

    def check_positions(self) -> tuple[Verdict, ...]:
        """Compare a thin synthetic model at far positions, in float32 and in the model's dtype."""
        kinds = take_text(self.reference.config).get("layer_types") or ()
        count = max(1, len(set(kinds)), count_block_kinds(self.reference.config))
        config = self._shrink_config(count)
        needs = read_requirements(config)
        reach = find_reach(needs, self.reference.device, self.reference.free_bytes)
        case = build_far_case(reach.length, self.reference.seed, needs.images)
        coverage = {"positions": str(reach), **({"images": describe_images((case,))} if needs.images else {})}
        with self._make_directory("positions-") as workdir:
            source = write_synthetic_model(config, workdir / "model", self.hugging_face)
            judge = self._convert_other(source, workdir, (case,))
            return tuple(replace(verdict, coverage=coverage) for verdict in judge.check_forward_in_dtypes({}))

    def _shrink_config(self, layers: int) -> dict[str, Any]:
        """Return the config of a thin model; transformers tells the sizes that a composite config leaves out."""
        config = self.reference.config
        return shrink_config(config, layers, self.reference.runner.resolve_config() if is_composite(config) else None)

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
            self.subject.convert(ConvertRequest(str(source), str(converted), *self.inputs.formats))
        inputs = replace(self.inputs, hf_path=str(source), subject_path=str(converted), workdir=str(workdir))
        reference = self.reference.for_checkpoint(source, workdir / "reference", cases)
        reference.leave_out_text()
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
            self.training = TrainingReference(self.reference, self.inputs.formats, workdir / "expected")
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
        with self._make_directory("traces-") as traces:
            runner = CaseRunner(self.reference, self.subject, self.inputs.device, traces, self.costs)
            spec = ForwardSpec(self.subject, self.inputs.subject_path, variant)
            passed = self._passed.get(("float32", tuple(sorted(variant.items()))), False)
            return ForwardCheck(self.inputs, runner, spec, dtype, self.cross_check, self.explain, passed).run()

    def _check_config_once(self) -> Verdict:
        with self._make_directory("keys-") as workdir:
            check = ConfigSensitivity(self.reference, self.subject, self.inputs.formats, workdir)
            return build_sensitivity_verdict(list(check.try_changes()), check.list_untried_keys())

    def _check_gradients_once(self, subject: Differentiable) -> Verdict:
        with self._make_directory("gradients-") as workdir:
            path = self.inputs.subject_path
            comparison = GradientComparison(
                self.reference, subject, path, self.inputs.formats, workdir, self._mixer_variant
            )
            return build_gradient_verdict(comparison.measure())

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
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as directory:
            yield Path(directory)


def _check_mixer_gradients(judge: Judge, name: str) -> Verdict:
    return judge.choose_mixer(name).check_gradients()
