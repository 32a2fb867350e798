"""The checks of an adapter, each with one line of what was seen. Real models and the real judge, no network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from ci.conformance.models import FORMATS, write_model, write_swapped
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.judge import Judge
from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.models import HubModel, TestParams
from ci.subjects.base import ConvertRequest, ExportRequest, TraceRequest
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.offer import SubjectOffer
from ci.subjects.trace_files import TraceReader
from ci.subjects.worker_subject import WorkerSubject

if TYPE_CHECKING:
    from ci.equivalence.verdict import Verdict
    from ci.subjects.base import Subject

UNKNOWN = "hub_tests_unknown"
SHORT_SECONDS = 0.001
TOKENS = 24


class NotConformingError(Exception):
    """What an adapter does otherwise than the protocol says."""


def require(fulfilled: object, say: Callable[[], str]) -> None:
    """Raise NotConformingError with what `say` returns, unless `fulfilled`."""
    if not fulfilled:
        raise NotConformingError(say())


@dataclass(frozen=True)
class CheckResult:
    """One check of an adapter: `passed` is None where it could not be made; `said` is one line."""

    name: str
    passed: bool | None
    said: str = ""


@dataclass
class ConformanceCheck:
    """Checks one adapter. `open_with(seconds)` opens its subject with a limit of time for each call."""

    offer: SubjectOffer
    open_with: Callable[[float], Any]
    workdir: Path
    device: str = "cpu"
    timeout: float = 600.0
    _models: dict[str, Path] = field(default_factory=dict, init=False)

    def run(self) -> Iterator[CheckResult]:
        """Yield the result of each check as it ends."""
        formats = [name for name in self.offer.formats if name in FORMATS]
        if not formats:
            yield CheckResult("formats", None, f"hub-tests has small models of {', '.join(FORMATS)} only")
            return
        with self.open_with(self.timeout) as subject:
            yield self._check("description", lambda: self._check_description(subject))
            for checkpoint_format in formats:
                yield from self._check_format(subject, checkpoint_format)
            yield from self._check_refusals(subject, formats[0])
        yield self._check_time_out()

    def _check_format(self, subject: Subject, checkpoint_format: str) -> Iterator[CheckResult]:
        source = self._models[checkpoint_format] = write_model(checkpoint_format, self.workdir / checkpoint_format)
        converted = self.workdir / f"{checkpoint_format}-converted"
        what = f"{checkpoint_format}: "
        convert = self._check(f"{what}conversion", lambda: self._convert(subject, source, converted))
        if self.offer.converts or not convert.passed:
            yield convert
        if not convert.passed:
            return
        judge = self._judge(subject, source, converted, checkpoint_format)
        yield self._check(f"{what}variants", lambda: self._check_variants(subject, converted, checkpoint_format))
        for dtype in ("float32", "model"):
            yield self._check_verdict(f"{what}forward in {dtype}", judge, dtype, {})
        for variant in self._list_runnable(subject, converted):
            yield self._check_verdict(
                f"{what}{variant.axis}={variant.name}", judge, "float32", {variant.axis: variant.name}
            )
        if self.offer.exports:
            yield self._check(
                f"{what}round trip", lambda: self._check_export(subject, judge, converted, checkpoint_format)
            )
        if self.offer.gradients:
            yield self._check(f"{what}gradients", lambda: _say(judge.check_gradients()))
        yield self._check(f"{what}planted bug", lambda: self._check_planted(subject, checkpoint_format))
        yield self._check(f"{what}repeat", lambda: self._check_repeat(subject, converted))

    def _check_refusals(self, subject: Subject, checkpoint_format: str) -> Iterator[CheckResult]:
        source, converted = self._models[checkpoint_format], self.workdir / f"{checkpoint_format}-converted"
        if self.offer.converts:
            wrong = ConvertRequest(str(source), str(self.workdir / "refused"), UNKNOWN)
            yield self._expect("unknown format is refused", UnsupportedError, lambda: subject.convert(wrong))
        request = self._trace_request(converted, "unknown-variant")
        request = replace(request, variant={"attention": UNKNOWN})
        yield self._expect("unknown variant is refused", UnsupportedError, lambda: subject.trace(request))
        damaged = self._trace_request(converted, "damaged-inputs")
        Path(damaged.inputs).write_bytes(b"damaged")
        yield self._check("damaged inputs are an error", lambda: self._check_damaged(subject, damaged))
        yield self._check("answers after an error", lambda: self._check_repeat(subject, converted))

    def _check(self, name: str, work: Callable[[], str]) -> CheckResult:
        """Run a check: it raises NotConformingError with its finding, or an error of the subject."""
        try:
            return CheckResult(name, True, work())
        except (NotConformingError, SubjectError, RequestError) as problem:
            return CheckResult(name, False, str(problem).splitlines()[0])

    def _expect(self, name: str, kinds: Any, work: Callable[[], object]) -> CheckResult:
        try:
            work()
        except SubjectCrashError as crash:
            return CheckResult(name, False, f"the process died: {crash}")
        except kinds as refused:
            return CheckResult(name, True, str(refused).splitlines()[0])
        except (SubjectError, RequestError) as other:
            return CheckResult(name, False, f"raise UnsupportedError instead of: {str(other).splitlines()[0]}")
        return CheckResult(name, False, "it was accepted")

    def _check_damaged(self, subject: Subject, request: TraceRequest) -> str:
        """Ask for a trace of a file that holds no tensors: the error must speak of that file."""
        try:
            subject.trace(request)
        except (SubjectError, RequestError) as problem:
            said = str(problem).splitlines()[0]
            require(Path(request.inputs).name in said, lambda: f"the error does not name the inputs: {said}")
            return said
        raise NotConformingError("it was accepted")

    def _check_description(self, subject: Subject) -> str:
        described = subject.describe()
        require(
            described.subject == self.offer.name,
            lambda: f"describe says {described.subject}, the offer {self.offer.name}",
        )
        missing = [name for name in self.offer.formats if name not in described.formats]
        require(not missing, lambda: f"describe does not list the offered format {missing[0]}")
        require(described.version, lambda: "describe gives no version")
        return f"{described.subject} {described.version}, Python {described.python}"

    def _convert(self, subject: Subject, source: Path, target: Path) -> str:
        checkpoint_format = self._find_format(source)
        result = subject.convert(ConvertRequest(str(source), str(target), checkpoint_format))
        require(result.files, lambda: "it names no files")
        return f"{len(result.files)} files, {result.bytes_written} bytes"

    def _check_variants(self, subject: Subject, converted: Path, checkpoint_format: str) -> str:
        offered = {(v.axis, v.name) for v in self.offer.variants_of(checkpoint_format)}
        listed = {(v.axis, v.name) for v in subject.variants(str(converted))}
        surplus, absent = listed - offered, offered - listed
        require(not surplus, lambda: f"variants lists {'='.join(min(surplus))}, the offer does not")
        require(not absent, lambda: f"the offer has {'='.join(min(absent))}, variants does not list it")
        return f"{len(listed)} as offered"

    def _list_runnable(self, subject: Subject, converted: Path) -> list[Any]:
        return [variant for variant in subject.variants(str(converted)) if not variant.needs]

    def _check_verdict(self, name: str, judge: Judge, dtype: Any, variant: dict[str, str]) -> CheckResult:
        return self._check(name, lambda: _say(judge.check_forward(dtype=dtype, variant=variant)))

    def _check_export(self, subject: Subject, judge: Judge, converted: Path, checkpoint_format: str) -> str:
        target = self.workdir / f"{checkpoint_format}-exported"
        subject.export(ExportRequest(str(converted), str(target), checkpoint_format, dtype="bfloat16"))
        return _say(judge.check_round_trip(str(target)))

    def _check_planted(self, subject: Subject, checkpoint_format: str) -> str:
        """Give the subject a model with two layers' query weights exchanged: it must fail in one of these layers."""
        source = self._models[checkpoint_format]
        wrong = write_swapped(source, self.workdir / f"{checkpoint_format}-swapped")
        converted = self.workdir / f"{checkpoint_format}-swapped-converted"
        subject.convert(ConvertRequest(str(wrong), str(converted), checkpoint_format))
        judge = self._judge(subject, source, converted, checkpoint_format)
        verdict = judge.check_forward(dtype="float32", variant={})
        require(
            not verdict.passed, lambda: "two layers' query weights were exchanged, and it still equals Hugging Face"
        )
        return f"red, as it must be: {verdict.diagnosis}".splitlines()[0]

    def _check_repeat(self, subject: Subject, converted: Path) -> str:
        """Run the same forward pass twice: the second answer has the same bits."""
        with tempfile.TemporaryDirectory(dir=self.workdir) as scratch:
            traces = []
            for name in ("first", "second"):
                request = replace(self._trace_request(converted, "repeat"), output=str(Path(scratch) / name))
                subject.trace(request)
                traces.append(TraceReader(Path(request.output)))
            different = [name for name in traces[0] if not torch.equal(traces[0].tensor(name), traces[1].tensor(name))]
        require(not different, lambda: f"{different[0]} differs from one run to the next")
        return f"the same bits twice in {len(list(traces[0].result.names))} scopes"

    def _check_time_out(self) -> CheckResult:
        """Give the subject less time than any call needs: it must be ended, and the error must say so."""
        name, converted = "time-out", self.workdir / f"{next(iter(self._models))}-converted"
        with self.open_with(SHORT_SECONDS) as subject:
            if not isinstance(subject, WorkerSubject):
                return CheckResult(name, None, "it runs in hub-tests' own process, where no call can be ended")
            return self._expect(
                name, SubjectTimeoutError, lambda: subject.trace(self._trace_request(converted, "late"))
            )

    def _trace_request(self, converted: Path, name: str) -> TraceRequest:
        inputs = self.workdir / f"{name}.safetensors"
        generator = torch.Generator().manual_seed(0)
        save_file({"input_ids": torch.randint(0, 100, (2, TOKENS), generator=generator)}, inputs)
        return TraceRequest(str(converted), str(inputs), str(self.workdir / f"{name}-trace"), device=self.device)

    def _judge(self, subject: Subject, source: Path, converted: Path, checkpoint_format: str) -> Judge:
        params = TestParams(batch_size=2, sequence_length=32)
        model = HubModel(name="tiny", model_id="tiny", checkpoint_format=checkpoint_format, test_params=params)
        workdir = tempfile.mkdtemp(prefix="judge-", dir=self.workdir)
        inputs = ComparisonInputs(model, str(source), str(converted), self.device, workdir)
        return Judge(inputs, subject, HuggingFace())

    def _find_format(self, source: Path) -> str:
        return next(name for name, path in self._models.items() if path == source)


def _say(verdict: Verdict) -> str:
    require(verdict.passed, lambda: verdict.diagnosis)
    return f"{verdict.worst.used:.0%} of the limit" if verdict.worst else "equal"
