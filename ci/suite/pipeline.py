"""The suite's steps for one model: each runs at most once, and the tests that build on it share its result.

No pytest here: `tests/integration/` turns results into outcomes, skips and JUnit properties.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from ci.errors import HubTestsError
from ci.evidence import Evidence, Step
from ci.garbage_collection import leave_imports_alone
from ci.subjects.base import ConvertRequest, ConvertResult, ExportRequest, Subject
from ci.suite.cached_step import CachedStep
from ci.suite.hugging_face_side import HuggingFaceSide
from ci.suite.source_checkpoint import SourceCheckpoint
from ci.suite.subject_session import SubjectSession

if TYPE_CHECKING:
    from ci.equivalence.judge import Judge
    from ci.hub.fetch import Checkpoint
    from ci.subjects.early_export import EarlyExport
    from ci.subjects.worker_subject import WorkerSubject
    from ci.suite.model_run import ModelRun

JUDGE_LIBRARIES = ("ci.equivalence.judge", "ci.subjects.hugging_face", "transformers.models.auto.modeling_auto")
"""Modules whose import takes seconds, because they need torch or transformers."""


class ModelPipeline:
    """The steps of one model: fetch, convert, judge, export. Use as a context manager: it ends the subject.

    `fetched` is what an earlier fetch of this model gave: its checkpoint, or the error that ended it.
    """

    def __init__(self, run: ModelRun, fetched: Checkpoint | HubTestsError | None = None) -> None:
        """Run nothing yet: each step starts with the first test that needs it."""
        self.run = run
        self.export_expected = False
        self._stack = ExitStack()
        self._source = SourceCheckpoint(run, fetched)
        self._session = SubjectSession(run, self._stack)
        self._hugging_face = HuggingFaceSide(run, self._source, self._stack)
        self._convert_step = CachedStep[tuple[Path, ConvertResult]]("test_conversion")
        self._export_step = CachedStep[Path]("test_hub_model_conversion")
        self._judge_step: CachedStep[Judge] = CachedStep("test_forward_equivalence")
        self._early_export: EarlyExport | None = None

    def __enter__(self) -> Self:
        """Return the pipeline itself; where the checkpoint is there already, let the subject's worker start."""
        if checkpoint := self._source.find_early():
            with suppress(HubTestsError):  # the first step that needs the subject says why it does not start
                self._session.start(checkpoint)
        return self

    def __exit__(self, *_: object) -> None:
        """End the subject's worker and free its memory."""
        self._hugging_face.stop()
        if self._early_export is not None:
            self._early_export.stop()
        self._stack.close()

    def fetch_checkpoint(self) -> Checkpoint:
        """Return the truncated checkpoint in the store; fetch it if it is missing."""
        return self._source.fetch()

    def find_source(self) -> Path:
        """Return the directory that is converted and compared: the store's, or its copy with plain weights."""
        return self._source.find_directory()

    def convert(self) -> tuple[Path, ConvertResult]:
        """Return the directory of the subject's checkpoint, and what the conversion reported."""
        return self._convert_step.run(self._convert)

    def export(self) -> Path:
        """Return the Hugging Face directory to which the subject's checkpoint was exported."""
        return self._export_step.run(self._export)

    def judge(self) -> Judge:
        """Return the comparison with Hugging Face; the tests share its reference traces and noise floors."""
        return self._judge_step.run(self._judge)

    def start_subject(self) -> Subject:
        """Return the subject; start it on first use. Raises SubjectCrashError where it could not be built."""
        return self._session.start(self.find_source())

    def import_libraries(self) -> None:
        """Import what the comparison needs, which takes seconds: torch and transformers."""
        with self.run.clock.measure("start", "imports of the judge"), leave_imports_alone():
            for name in JUDGE_LIBRARIES:
                import_module(name)

    def explain_failure(self, error: Exception) -> Exception:
        """Return why a step or a check really failed: on a disk that the subject filled, anything of ours can."""
        return self._session.find_disk_failure() or error

    def start_evidence(self, step: Step, variant: str | None = None) -> Evidence:
        """Return the evidence of a test before it ends: identities, and the results of earlier steps."""
        run = self.run
        evidence = Evidence(
            model=run.model.name,
            step=step,
            model_id=run.model.model_id,
            subject=run.offer.name,
            device=run.device,
            variant=variant,
            isolation=run.describe_isolation(),
        )
        if checkpoint := self._source.checkpoint:
            evidence = replace(
                evidence,
                revision=checkpoint.revision,
                layers=checkpoint.layers,
                picked=checkpoint.picked,
                slice=str(checkpoint.slice),
            )
        if self._convert_step.value:
            subject = self.start_subject().describe()
            evidence = replace(
                evidence,
                subject_version=subject.version,
                subject_commit=run.options.subject_commit or subject.commit,
                libraries=dict(subject.libraries),
            )
        return replace(evidence, figures=self._session.compile_cache_figures())

    def _convert(self) -> tuple[Path, ConvertResult]:
        target = self.run.workdir / "converted"
        request = ConvertRequest(
            source=str(self.find_source()),
            target=str(target),
            checkpoint_format=self.run.model.checkpoint_format,
            model_config=self.run.model.model_config,
        )
        subject = self.start_subject()
        self.import_libraries()
        if self._hugging_face.prepare(subject):  # it has seen the free memory, of which a process on a GPU takes some
            self._session.warm_device()
        with self.run.clock.measure("convert", "import"):
            result = subject.convert(request)
        with suppress(HubTestsError):  # the export's own test says what is wrong
            self._start_export(target)
        return target, result

    def _start_export(self, converted: Path) -> None:
        """Start the export beside the forward passes, where a test needs it later."""
        from ci.subjects.early_export import EarlyExport, can_export_early

        subject = self.start_subject()
        if self.export_expected and can_export_early(subject, converted, self.run.device):
            self._early_export = EarlyExport(cast("WorkerSubject", subject), self._make_export_request(converted))
            self._early_export.start()

    def _export(self) -> Path:
        request = self._make_export_request(self.convert()[0])
        if self._early_export is not None:
            self._early_export.finish()
        else:
            with self.run.clock.measure("convert", "export"):
                self.start_subject().export(request)
        return Path(request.target)

    def _make_export_request(self, converted: Path) -> ExportRequest:
        from ci.equivalence.inputs import read_published_dtype

        upstream = self.find_source()
        return ExportRequest(
            source=str(converted),
            target=str(self.run.workdir / "exported"),
            checkpoint_format=self.run.model.checkpoint_format,
            model_config=self.run.model.model_config,
            dtype=read_published_dtype(json.loads((upstream / "config.json").read_bytes())),
        )

    def _judge(self) -> Judge:
        self.import_libraries()
        from ci.equivalence.comparison_inputs import ComparisonInputs
        from ci.equivalence.device_usage import CostMeter
        from ci.equivalence.judge import Judge

        converted, _ = self.convert()
        inputs = ComparisonInputs(
            model=self.run.model,
            hf_path=str(self.find_source()),
            subject_path=str(converted),
            device=self.run.device,
            workdir=tempfile.mkdtemp(prefix="judge-", dir=self.run.workdir),
        )
        prepared, subject = self._hugging_face.finish(), self.start_subject()
        return Judge(
            inputs,
            subject,
            prepared.hugging_face if prepared else self._hugging_face.open(subject),
            cross_check=self._cross_check(),
            shared_reference=prepared,
            isolation=self.run.isolation,
            costs=CostMeter(clock=self.run.clock),
        )

    def _cross_check(self) -> Subject | None:
        """Return the reference where it reads the subject's checkpoints: it separates kernels from conversions."""
        if self.run.offer.in_this_package or not self.run.offer.fast_llm_checkpoints:
            return None
        from ci.subjects.reference.subject import ReferenceSubject

        return ReferenceSubject()
