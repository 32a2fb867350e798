"""One model's walk through the suite: each step done at most once, its outcome kept for the tests that build on it.

No pytest in here: `tests/integration/` turns outcomes into verdicts, skips and JUnit properties.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from ci.errors import GatedError, HubTestsError, InfrastructureError, SubjectError
from ci.evidence import Evidence, FailureClass, Step
from ci.hub.fetch import Checkpoint, FetchRequest, fetch
from ci.subjects.base import ConvertRequest, ConvertResult, Description, ExportRequest, Subject
from ci.subjects.registry import SubjectName

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.equivalence.judge import Judge, Verdict
    from ci.models import HubModel
    from ci.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class SuiteOptions:
    """How the suite runs here. `layers` overrides the registry; `checkpoints` pins models to fetched revisions."""

    subject: SubjectName = "reference"
    subject_python: Path | None = None
    subject_path: tuple[Path, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"
    layers: int | Literal["auto"] | None = None
    timeout: float = 1800.0
    log_dir: Path | None = None
    checkpoints: Mapping[str, Checkpoint | HubTestsError] = field(default_factory=dict)


class StepFailedError(Exception):
    """An earlier step of the chain failed; `step` and `error` say which and why."""

    def __init__(self, step: Step, error: Exception) -> None:
        """Keep which step failed and its error."""
        super().__init__(f"{step} failed: {error}")
        self.step = step
        self.error = error


class Chain:
    """The steps of one model: fetch, convert, judge, export. Use as a context manager: it ends the subject."""

    def __init__(self, model: HubModel, options: SuiteOptions, settings: Settings, workdir: Path) -> None:
        """Nothing runs yet; every step starts with the first test that needs it."""
        self.model = model
        self.options = options
        self._settings = settings
        self._workdir = workdir
        self._outcomes: dict[Step, Any] = {}
        self._stack = ExitStack()
        self._subject: Subject | None = None

    def __enter__(self) -> Self:
        """The chain itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the subject's worker and give its memory back."""
        self._stack.close()

    def checkpoint(self) -> Checkpoint:
        """The truncated checkpoint in the store, fetched if need be."""
        return self._once("test_download_and_truncate", self._fetch)

    def converted(self) -> tuple[Path, ConvertResult]:
        """The subject's checkpoint directory, and what converting it took."""
        return self._once("test_conversion", self._convert)

    def exported(self) -> Path:
        """The Hugging Face directory that the subject's checkpoint was exported to."""
        return self._once("test_hub_model_conversion", self._export)

    def judge(self) -> Judge:
        """Holds the subject against Hugging Face; reference traces and floors are shared between the tests."""
        return self._once("test_forward_equivalence", self._judge)

    def subject(self) -> Subject:
        """The subject, started on first use."""
        if self._subject is None:
            from ci.subjects.open_subject import open_subject

            options = self.options
            self._subject = self._stack.enter_context(
                open_subject(
                    options.subject,
                    python=options.subject_python,
                    path=options.subject_path,
                    timeout=options.timeout,
                    log=options.log_dir / f"{self.model.name}-{options.subject}.log" if options.log_dir else None,
                )
            )
        return self._subject

    def describe(self) -> Description:
        """Who is under test."""
        return self.subject().describe()

    def evidence(self, step: Step, variant: str | None = None) -> Evidence:
        """What is known about a test of `step` before it ends: identity, and what earlier steps established."""
        known = self._outcomes.get("test_download_and_truncate")
        evidence = Evidence(
            model=self.model.name,
            step=step,
            model_id=self.model.model_id,
            subject=self.options.subject,
            device=self.options.device,
            variant=variant,
        )
        if isinstance(known, Checkpoint):
            evidence = replace(evidence, revision=known.revision, layers=known.layers)
        if isinstance(self._outcomes.get("test_conversion"), tuple):
            who = self.describe()
            evidence = replace(
                evidence, subject_version=who.version, subject_commit=who.commit, libraries=dict(who.libraries)
            )
        return evidence

    def _once(self, step: Step, work: Callable[[], T]) -> T:
        if step not in self._outcomes:
            try:
                self._outcomes[step] = work()
            except StepFailedError as earlier:
                self._outcomes[step] = earlier
            except Exception as error:  # kept, and raised again for each test that needs the step
                self._outcomes[step] = StepFailedError(step, error)
        outcome = self._outcomes[step]
        if isinstance(outcome, StepFailedError):
            raise outcome
        return cast("T", outcome)

    def _fetch(self) -> Checkpoint:
        model, pinned = self.model, self.options.checkpoints.get(self.model.name)
        if isinstance(pinned, HubTestsError):
            raise pinned
        request = FetchRequest(
            model.model_id,
            layers=pinned.layers if pinned else self.options.layers or model.num_layers_to_keep,
            revision=pinned.revision if pinned else model.revision,
            allow_remote_code=model.trust_remote_code,
        )
        checkpoint = fetch(request, self._settings)
        if pinned and pinned.manifest_sha256 != checkpoint.manifest_sha256:
            raise InfrastructureError(
                f"{model.name}: the stored checkpoint at {checkpoint.path} is not the one that was fetched for this "
                f"run (manifest {checkpoint.manifest_sha256[:12]}, expected {pinned.manifest_sha256[:12]}): fetch again"
            )
        return checkpoint

    def _convert(self) -> tuple[Path, ConvertResult]:
        target = self._workdir / "converted"
        request = ConvertRequest(
            source=self.checkpoint().path,
            target=str(target),
            checkpoint_format=self.model.checkpoint_format,
            model_config=self.model.model_config,
        )
        return target, self.subject().convert(request)

    def _export(self) -> Path:
        from ci.equivalence.inputs import read_published_dtype

        target, upstream = self._workdir / "exported", Path(self.checkpoint().path)
        converted, _ = self.converted()
        request = ExportRequest(
            source=str(converted),
            target=str(target),
            checkpoint_format=self.model.checkpoint_format,
            model_config=self.model.model_config,
            dtype=read_published_dtype(json.loads((upstream / "config.json").read_bytes())),
        )
        self.subject().export(request)
        return target

    def _judge(self) -> Judge:
        from ci.equivalence.judge import ComparisonInputs, Judge
        from ci.subjects.hugging_face import HuggingFace

        converted, _ = self.converted()
        inputs = ComparisonInputs(
            model=self.model,
            hf_path=self.checkpoint().path,
            subject_path=str(converted),
            device=self.options.device,
            workdir=tempfile.mkdtemp(prefix="judge-", dir=self._workdir),
        )
        return Judge(inputs, self.subject(), HuggingFace(), cross_check=self._cross_check())

    def _cross_check(self) -> Subject | None:
        """The reference, where something else is under test: it tells a wrong kernel from a wrong conversion."""
        if self.options.subject == "reference":
            return None
        from ci.subjects.reference.subject import ReferenceSubject

        return ReferenceSubject()


def with_verdicts(evidence: Evidence, verdicts: tuple[Verdict, ...]) -> Evidence:
    """The evidence with what judging found; the first red verdict speaks, else the one closest to its limit."""
    red = [verdict for verdict in verdicts if not verdict.passed]
    worst = [verdict.worst for verdict in red or verdicts if verdict.worst]
    return replace(
        evidence,
        dtype=" ".join(dict.fromkeys(m.dtype for v in verdicts for m in v.measures)),
        ran={axis: name for v in verdicts for axis, name in v.ran.items()},
        failure_class=red[0].failure_class if red else None,
        diagnosis="; ".join(dict.fromkeys(v.diagnosis for v in red if v.diagnosis)),
        worst=max(worst, key=lambda measure: measure.used, default=None),
        half=red[0].half if red else "",
        layer=red[0].layer if red else None,
        operation=red[0].operation if red else "",
        heat=next((verdict.heat for verdict in red or verdicts if verdict.heat), None),
        routing=tuple(layer for verdict in verdicts for layer in verdict.routing),
        measures=tuple(m for v in verdicts for m in v.measures),
        coverage={key: value for v in verdicts for key, value in v.coverage.items()},
        figures={**evidence.figures, **{key: value for v in verdicts for key, value in v.figures.items()}},
        notes=tuple(dict.fromkeys(note for v in verdicts for note in v.notes)),
    )


def failure_class(error: BaseException) -> FailureClass:
    """The class of an exception that ended a step; what the Hub, the disk or the request did blames no subject."""
    if isinstance(error, StepFailedError):
        if error.step == "test_download_and_truncate" and not isinstance(error.error, GatedError):
            return "hub_unavailable" if isinstance(error.error, HubTestsError) else "other"
        return failure_class(error.error)
    if isinstance(error, SubjectError):
        return _SUBJECT_CLASSES.get(error.failure, "other")
    if isinstance(error, GatedError):
        return "gated"
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
