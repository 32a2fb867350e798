"""The suite's steps for one model: each runs at most once, and the tests that build on it share its result.

No pytest here: `tests/integration/` turns results into outcomes, skips and JUnit properties.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from ci.checkpoints import fetch_own_code, make_fetch_request
from ci.devices import default_device
from ci.errors import GatedError, HubTestsError, InfrastructureError, OwnLimitError, SubjectError
from ci.evidence import NOT_COVERED, NOT_ISOLATED, Evidence, FailureClass, Step
from ci.garbage_collection import leave_imports_alone
from ci.hub.fetch import Checkpoint, fetch
from ci.models import override_part
from ci.phases import PhaseClock
from ci.subjects.base import ConvertRequest, ConvertResult, Description, ExportRequest, Subject, UsesCompileCache
from ci.subjects.compile_cache import choose_compile_cache
from ci.subjects.failure import SubjectCrashError
from ci.subjects.offer import NO_ATTENTION, NO_EXPERTS
from ci.subjects.registry import SubjectName, find_offer, shares_interpreter
from ci.subjects.sandbox import choose_isolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.equivalence.judge import Judge, Verdict
    from ci.equivalence.preparation import ReferencePreparation
    from ci.models import HubModel
    from ci.run_options import RunOptions
    from ci.settings import Settings
    from ci.subjects.base import Variant, Yardstick
    from ci.subjects.early_export import EarlyExport
    from ci.subjects.worker_subject import WorkerSubject

T = TypeVar("T")

DEQUANTIZED = "its FP8 weights are written as bfloat16 before they are compared: code times the scale of its block"
"""The note of an entry that says how its weights are dequantised."""
JUDGE_LIBRARIES = ("ci.equivalence.judge", "ci.subjects.hugging_face", "transformers.models.auto.modeling_auto")
"""Modules whose import takes seconds, because they need torch or transformers."""


class StepFailedError(Exception):
    """An earlier step failed; `step` and `error` say which and why."""

    def __init__(self, step: Step, error: Exception) -> None:
        """Keep which step failed and its error."""
        super().__init__(f"{step} failed: {error}")
        self.step = step
        self.error = error


class CachedStep(Generic[T]):
    """A step that runs on first use; its value, or its failure, is kept for later uses."""

    def __init__(self, step: Step) -> None:
        """Keep the step's name only: kept work would make a reference cycle with the pipeline."""
        self.value: T | None = None
        self._failure: StepFailedError | None = None
        self._step = step

    def run(self, work: Callable[[], T]) -> T:
        """Return the step's value; call `work` on first use.

        Raises StepFailedError if this step, or one that it needs, failed.
        """
        if self._failure is not None:
            raise self._failure
        if self.value is None:
            try:
                self.value = work()
            except StepFailedError as earlier:
                self._failure = earlier
                raise
            except Exception as error:  # kept, and raised again for each test that needs the step
                self._failure = StepFailedError(self._step, error)
                raise self._failure from error
        return self.value


class ModelPipeline:
    """The steps of one model: fetch, convert, judge, export. Use as a context manager: it ends the subject.

    `fetched` is what an earlier fetch of this model gave: its checkpoint, or the error that ended it.
    """

    def __init__(
        self,
        model: HubModel,
        options: RunOptions,
        settings: Settings,
        workdir: Path,
        *,
        fetched: Checkpoint | HubTestsError | None = None,
        clock: PhaseClock | None = None,
    ) -> None:
        """Run nothing yet: each step starts with the first test that needs it."""
        self.model = model
        self.options = options
        self.offer = find_offer(options.subject_or_default())
        self.device = options.device or default_device()
        self.clock = clock or PhaseClock()
        self._settings = settings
        self._workdir = workdir
        self._fetched = fetched
        self._fetched_code: Path | None = None
        self._stack = ExitStack()
        self._subject: Subject | None = None
        self._fetch_step = CachedStep[Checkpoint]("test_download_and_truncate")
        self._dequantize_step = CachedStep[Path]("test_conversion")
        self._convert_step = CachedStep[tuple[Path, ConvertResult]]("test_conversion")
        self._export_step = CachedStep[Path]("test_hub_model_conversion")
        self._judge_step: CachedStep[Judge] = CachedStep("test_forward_equivalence")
        self._preparation: ReferencePreparation | None = None
        self._early_export: EarlyExport | None = None
        self.export_expected = False

    @property
    def subject_name(self) -> str:
        """The subject's name, as its offer says it: for messages and results."""
        return self.offer.name

    @property
    def subject(self) -> SubjectName:
        """What finds the subject again: its name, or the module or file of its adapter."""
        return self.options.subject_or_default()

    def __enter__(self) -> Self:
        """Return the pipeline itself; where the checkpoint is there already, let the subject's worker start."""
        if isinstance(self._fetched, Checkpoint) and Path(self._fetched.path).is_dir():
            with suppress(HubTestsError):  # the first step that needs the subject says why it does not start
                self._warm_up(Path(self._fetched.path))
        return self

    def __exit__(self, *_: object) -> None:
        """End the subject's worker and free its memory."""
        for running in (self._preparation, self._early_export):
            if running is not None:
                running.stop()
        self._stack.close()

    def fetch_checkpoint(self) -> Checkpoint:
        """Return the truncated checkpoint in the store; fetch it if it is missing."""
        return self._fetch_step.run(self._fetch)

    def find_source(self) -> Path:
        """Return the directory that is converted and compared: the store's, or its copy with plain weights."""
        checkpoint = self.fetch_checkpoint()
        if not self.model.dequantize:
            return Path(checkpoint.path)
        return self._dequantize_step.run(lambda: self._dequantize(checkpoint))

    def convert(self) -> tuple[Path, ConvertResult]:
        """Return the directory of the subject's checkpoint, and what the conversion reported."""
        return self._convert_step.run(self._convert)

    def export(self) -> Path:
        """Return the Hugging Face directory to which the subject's checkpoint was exported."""
        return self._export_step.run(self._export)

    def judge(self) -> Judge:
        """Return the comparison with Hugging Face; the tests share its reference traces and noise floors."""
        return self._judge_step.run(self._judge)

    def check_served_export(self) -> tuple[Verdict, ...]:
        """Serve original and export with the consumer, and compare.

        Raises NotOfferedError where the consumer is not here, or does not serve the original either.
        """
        from ci.consumers.open_consumer import find_interpreter, open_consumer
        from ci.equivalence.served_export import ServedExport

        name, logs = self.options.consumer or "", self.options.subject_logs
        python, variables = find_interpreter(name, self._settings.environment_roots, self.options.consumer_python)
        exported, reference = self.export(), self.judge().reference
        with open_consumer(
            name,
            python=python,
            timeout=self.options.timeout,
            log=logs / f"{self.model.name}-{name}.log" if logs else None,
            isolation=choose_isolation(self.options.isolation),
            readable=(reference.checkpoint,),
            variables=variables,
            clock=self.clock,
        ) as consumer:
            trainer = (self.start_subject(), str(self.convert()[0]))
            workdir, policy = self._workdir / "served", self.model.export_policy
            return ServedExport(reference, consumer, exported, workdir, trainer, policy).check()

    def describe_serving(self) -> dict[str, str]:
        """Say that no engine serves the export, where none was asked for."""
        return {} if self.options.consumer else {"served": f"{NOT_COVERED}no engine served the export (--consumer)"}

    def start_subject(self) -> Subject:
        """Return the subject; start it on first use. Raises SubjectCrashError where it could not be built."""
        if self._subject is None:
            self._warm_up(self.find_source())
        assert self._subject is not None  # noqa: S101 (narrowing only)
        return self._subject

    def _warm_up(self, checkpoint: Path) -> None:
        """Open the subject; a worker starts in its sandbox at once, and imports while the judge does other things."""
        from ci.subjects.open_subject import open_subject

        if self.options.environment_failure:
            raise InfrastructureError(self.options.environment_failure)
        if self.options.subject_failure:
            raise SubjectCrashError(self.options.subject_failure)
        logs = self.options.subject_logs
        self._subject = self._stack.enter_context(
            open_subject(
                self.options.subject_or_default(),
                python=self._python,
                path=self.options.subject_path,
                timeout=self.options.timeout,
                log=logs / f"{self.model.name}-{self.subject_name}.log" if logs else None,
                isolation=choose_isolation(self.options.isolation),
                readable=(checkpoint,),
                variables=self.options.read_subject_variables(),
                compile_cache=choose_compile_cache(self.options, self._settings),
                clock=self.clock,
            )
        )
        if (warm_up := getattr(self._subject, "warm_up", None)) is not None:
            warm_up(checkpoint)

    @property
    def _python(self) -> Path | None:
        """The subject's interpreter: this one where a subject that is installed here runs in a sandbox."""
        sandboxed = choose_isolation(self.options.isolation).applied and not self.offer.in_this_package
        return self.options.subject_python or (Path(sys.executable) if sandboxed else None)

    def find_need(self, axis: str, name: str, variant: Variant | None) -> str:
        """Return what is missing to run a variant: what the subject says of it, or why it does not list it; or ""."""
        if variant is not None:
            return variant.needs or ""
        conditional = self.offer.conditional_needs.get(f"{axis}={name}", ())
        return self._find_model_need(axis) or next(iter(conditional), "")

    def _find_model_need(self, axis: str) -> str:
        """Return what the model itself lacks to run any variant of an axis, by its config.json; "" for nothing."""
        from ci.equivalence import nested_config
        from ci.equivalence.inputs import read_requirements

        config = json.loads((self.find_source() / "config.json").read_bytes())
        if axis == "attention":
            return NO_ATTENTION if nested_config.is_nested(config) and not nested_config.has_attention(config) else ""
        dense = self.offer.dense_formats
        if axis != "moe" or self.model.checkpoint_format not in dense or read_requirements(config).experts:
            return ""
        return NO_EXPERTS

    def describe_isolation(self) -> str:
        """Say how the subject's code is kept apart from the judge: the sandbox, or why there is none."""
        isolation = choose_isolation(self.options.isolation)
        if self._python is None and self.offer.in_this_package:
            return "not needed: hub-tests' own code"
        if isolation.applied and shares_interpreter(self.options.subject_or_default(), self.options.subject_python):
            return f"{NOT_ISOLATED}installed in hub-tests' own interpreter"
        return isolation.description if isolation.applied else f"{NOT_ISOLATED}{isolation.description}"

    def explain_failure(self, error: Exception) -> Exception:
        """Return why a step or a check really failed: on a disk that the subject filled, anything of ours can."""
        from ci.subjects.worker_subject import WorkerSubject

        filled = self._subject.find_disk_failure() if isinstance(self._subject, WorkerSubject) else None
        return filled or error

    def describe_subject(self) -> Description:
        """Return the subject's name, version and libraries."""
        return self.start_subject().describe()

    def start_evidence(self, step: Step, variant: str | None = None) -> Evidence:
        """Return the evidence of a test before it ends: identities, and the results of earlier steps."""
        evidence = Evidence(
            model=self.model.name,
            step=step,
            model_id=self.model.model_id,
            subject=self.subject_name,
            device=self.device,
            variant=variant,
            isolation=self.describe_isolation(),
        )
        if checkpoint := self._fetch_step.value:
            evidence = replace(
                evidence,
                revision=checkpoint.revision,
                layers=checkpoint.layers,
                picked=checkpoint.picked,
                slice=str(checkpoint.slice),
            )
        if self._convert_step.value:
            subject = self.describe_subject()
            evidence = replace(
                evidence,
                subject_version=subject.version,
                subject_commit=self.options.subject_commit or subject.commit,
                libraries=dict(subject.libraries),
            )
        started: object = self._subject
        if isinstance(started, UsesCompileCache):
            evidence = replace(evidence, figures=dict(started.compile_cache_figures()))
        return evidence

    def _fetch(self) -> Checkpoint:
        model, pinned = self.model, self._fetched
        if isinstance(pinned, HubTestsError):
            raise pinned
        request = make_fetch_request(override_part(model, self.options.layers, self.options.slice))
        if pinned:
            layers = pinned.picked or pinned.layers
            request = replace(request, layers=layers, revision=pinned.revision, slice=pinned.slice)
        with self.clock.measure("fetch"):
            checkpoint = fetch(request, self._settings)
            self._fetched_code = fetch_own_code(model, self._settings)
        if pinned and pinned.manifest_sha256 != checkpoint.manifest_sha256:
            raise InfrastructureError(
                f"{model.name}: the stored checkpoint at {checkpoint.path} is not the one that was fetched for this "
                f"run (manifest {checkpoint.manifest_sha256[:12]}, expected {pinned.manifest_sha256[:12]}): fetch again"
            )
        return replace(checkpoint, notes=(*checkpoint.notes, DEQUANTIZED)) if model.dequantize else checkpoint

    def _dequantize(self, checkpoint: Checkpoint) -> Path:
        from ci.equivalence.dequantized_checkpoint import dequantize_checkpoint

        what = f"{checkpoint.model_id}@{checkpoint.revision[:8]}"
        with self.clock.measure("convert", "dequantise"):
            return dequantize_checkpoint(Path(checkpoint.path), self._workdir / "dequantized", what=what)

    def _convert(self) -> tuple[Path, ConvertResult]:
        target = self._workdir / "converted"
        request = ConvertRequest(
            source=str(self.find_source()),
            target=str(target),
            checkpoint_format=self.model.checkpoint_format,
            model_config=self.model.model_config,
        )
        subject = self.start_subject()
        self.import_libraries()
        self._prepare_reference()
        if self._preparation is not None:  # it has looked at the free memory, of which a process on a GPU takes some
            self._warm_device(subject)
        with self.clock.measure("convert", "import"):
            result = subject.convert(request)
        with suppress(HubTestsError):  # the export's own test says what is wrong
            self._start_export(target)
        return target, result

    def _warm_device(self, subject: Subject) -> None:
        if (warm_device := getattr(subject, "warm_device", None)) is not None:
            warm_device(self.device)

    def _prepare_reference(self) -> None:
        """Let Hugging Face run while the subject converts: another process, which leaves torch to this one's thread."""
        from ci.equivalence.device_usage import CostMeter
        from ci.equivalence.hf_reference import ReferenceRun
        from ci.equivalence.preparation import ReferencePreparation
        from ci.subjects.memory import fits_beside_conversion

        checkpoint = self.find_source()
        if self._python is None or not fits_beside_conversion(checkpoint, self.device):
            return
        reference = ReferenceRun(
            checkpoint=checkpoint,
            params=self.model.test_params,
            hugging_face=self._open_hugging_face(),
            device=self.device,
            workdir=self._workdir / "reference",
            costs=CostMeter(clock=self.clock),
        )
        self._preparation = ReferencePreparation(reference)
        self._preparation.start()

    def _start_export(self, converted: Path) -> None:
        """Let the export begin beside the forward passes, where a test will ask for it and nothing waits for it."""
        from ci.subjects.early_export import EarlyExport, can_export_early

        subject = self.start_subject()
        if self.export_expected and can_export_early(subject, converted, self.device):
            self._early_export = EarlyExport(cast("WorkerSubject", subject), self._make_export_request(converted))
            self._early_export.start()

    def _export(self) -> Path:
        request = self._make_export_request(self.convert()[0])
        if self._early_export is not None:
            self._early_export.finish()
        else:
            with self.clock.measure("convert", "export"):
                self.start_subject().export(request)
        return Path(request.target)

    def _make_export_request(self, converted: Path) -> ExportRequest:
        from ci.equivalence.inputs import read_published_dtype

        upstream = self.find_source()
        return ExportRequest(
            source=str(converted),
            target=str(self._workdir / "exported"),
            checkpoint_format=self.model.checkpoint_format,
            model_config=self.model.model_config,
            dtype=read_published_dtype(json.loads((upstream / "config.json").read_bytes())),
        )

    def import_libraries(self) -> None:
        """Import what the comparison needs, which takes seconds: torch and transformers."""
        with self.clock.measure("start", "imports of the judge"), leave_imports_alone():
            for name in JUDGE_LIBRARIES:
                import_module(name)

    def _judge(self) -> Judge:
        self.import_libraries()
        from ci.equivalence.device_usage import CostMeter
        from ci.equivalence.judge import ComparisonInputs, Judge

        converted, _ = self.convert()
        inputs = ComparisonInputs(
            model=self.model,
            hf_path=str(self.find_source()),
            subject_path=str(converted),
            device=self.device,
            workdir=tempfile.mkdtemp(prefix="judge-", dir=self._workdir),
        )
        if (preparation := self._preparation) is not None:
            preparation.finish()
        prepared = preparation.reference if preparation else None
        return Judge(
            inputs,
            self.start_subject(),
            prepared.hugging_face if prepared else self._open_hugging_face(),
            cross_check=self._cross_check(),
            shared_reference=prepared,
            isolation=choose_isolation(self.options.isolation),
            costs=CostMeter(clock=self.clock),
        )

    def _open_hugging_face(self) -> Yardstick:
        """Return Hugging Face's side: in this process, or in a worker where it is code that came with the model.

        Raises RemoteCodeError where there is no sandbox for that, RequestError where its environment is missing.
        """
        from ci.subjects.hugging_face import HuggingFace

        if not self.model.trust_remote_code:
            return HuggingFace()
        from ci.environments.reference import find_reference_python
        from ci.subjects.hugging_face.code_source import find_code_source
        from ci.subjects.hugging_face.worker import open_hugging_face

        checkpoint, logs = self.find_source(), self.options.subject_logs
        commit = self.options.subject_commit or self.describe_subject().commit
        return self._stack.enter_context(
            open_hugging_face(
                self.options.reference_python or find_reference_python(self.model, self._settings),
                find_code_source(self.model, self.options.subject_path, commit, self._fetched_code),
                choose_isolation(self.options.isolation),
                path=self.options.reference_path,
                readable=(checkpoint,),
                timeout=self.options.timeout,
                log=logs / f"{self.model.name}-hugging_face.log" if logs else None,
                clock=self.clock,
            )
        )

    def _cross_check(self) -> Subject | None:
        """Return the reference where it reads the subject's checkpoints: it separates kernels from conversions."""
        if self.offer.in_this_package or not self.offer.fast_llm_checkpoints:
            return None
        from ci.subjects.reference.subject import ReferenceSubject

        return ReferenceSubject()


def add_verdicts(evidence: Evidence, verdicts: tuple[Verdict, ...]) -> Evidence:
    """Add verdicts to a test's evidence.

    The first failed verdict gives class and component; the measure closest to its limit is the worst.
    """
    red = [verdict for verdict in verdicts if not verdict.passed]
    worst = [verdict.worst for verdict in red or verdicts if verdict.worst]
    return replace(
        evidence,
        dtype=" ".join(dict.fromkeys(m.dtype for v in verdicts for m in v.measures)),
        ran={axis: name for v in verdicts for axis, name in v.ran.items()},
        failure_class=red[0].failure_class if red else None,
        diagnosis="; ".join(dict.fromkeys(v.diagnosis for v in red if v.diagnosis)),
        worst=max(worst, key=lambda measure: measure.used, default=None),
        half=red[0].component if red else "",
        layer=red[0].layer if red else None,
        operation=red[0].operation if red else "",
        heat=next((verdict.heat for verdict in red or verdicts if verdict.heat), None),
        routing=tuple(layer for verdict in verdicts for layer in verdict.routing),
        served=tuple(gap for verdict in verdicts for gap in verdict.served),
        companions=tuple(one for verdict in verdicts for one in verdict.companions),
        measures=tuple(m for v in verdicts for m in v.measures),
        coverage={key: value for v in verdicts for key, value in v.coverage.items()},
        figures={**evidence.figures, **{key: value for v in verdicts for key, value in v.figures.items()}},
        notes=tuple(dict.fromkeys(note for v in verdicts for note in v.notes)),
        warnings=tuple(dict.fromkeys(warning for v in verdicts for warning in v.warnings)),
    )


def classify_failure(error: BaseException) -> FailureClass:
    """Return the failure class of an exception that ended a step.

    No failure of the Hub, the disk or the request blames the subject.
    """
    if isinstance(error, StepFailedError):
        if error.step == "test_download_and_truncate" and isinstance(error.error, InfrastructureError):
            return "hub_unavailable"
        return classify_failure(error.error)
    if isinstance(error, SubjectError):
        return _SUBJECT_CLASSES.get(error.failure, "other")
    if isinstance(error, GatedError):
        return "gated"
    if isinstance(error, OwnLimitError):
        return error.failure_class
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    return "environment" if isinstance(error, HubTestsError) else "other"


_SUBJECT_CLASSES: dict[str, FailureClass] = {
    "unsupported": "unsupported",
    "crash": "crash",
    "protocol": "crash",
    "timeout": "timeout",
    "out_of_memory": "out_of_memory",
}
