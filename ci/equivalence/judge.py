"""The verdict: traces of the subject held against the truth, gate by gate. Only orchestrates."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.equivalence import roundtrip, verdicts
from ci.equivalence.deep import Gradients, Sensitivity, fresh_truth, perturbed
from ci.equivalence.inquest import Inquest
from ci.equivalence.judged import Judged
from ci.equivalence.spent import Spent
from ci.equivalence.truth import Truth
from ci.equivalence.verdicts import Verdict
from ci.equivalence.walk import Walk, Walked
from ci.errors import NotOfferedError, SubjectError
from ci.evidence import FINGERPRINT
from ci.models import HubModel
from ci.subjects.base import NO_GRADIENTS, ConvertRequest, Differentiable, DType, Subject, TraceRequest, TraceResult
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from ci.equivalence.inputs import Case

__all__ = ["Judge", "Trial", "Verdict"]

FLIPS_HIDE = 0.5
"""Where rounding flips excuse more than this share of the tokens, blocks are judged one by one instead."""


@dataclass(frozen=True)
class Trial:
    """What is judged: the Hugging Face checkpoint directory, the subject's conversion of it, where to run and write."""

    model: HubModel
    hf_path: str
    subject_path: str
    device: str = "cpu"
    workdir: str = "."


@dataclass(frozen=True)
class Tried:
    """Whose forward over which checkpoint directory, in which variant."""

    subject: Subject
    checkpoint: str
    variant: Mapping[str, str]


@dataclass
class Judge:
    """Holds one subject's conversion of one model against Hugging Face; truth and floors are measured once."""

    trial: Trial
    subject: Subject
    hugging_face: HuggingFace
    third_opinion: Subject | None = None
    shared_truth: Truth | None = None
    explain: bool = True
    truth: Truth = field(init=False)
    spent: Spent = field(default_factory=Spent)
    _traces: Path = Path()
    _passed: dict[tuple[DType, tuple[tuple[str, str], ...]], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing runs yet. `shared_truth` is another judge's over the same checkpoint, to measure it once."""
        trial = self.trial
        self.truth = self.shared_truth or Truth(
            checkpoint=Path(trial.hf_path),
            params=trial.model.test_params,
            hugging_face=self.hugging_face,
            device=trial.device,
            workdir=Path(trial.workdir) / "truth",
        )

    def forward(self, *, dtype: Literal["float32", "model"], variant: Mapping[str, str]) -> Verdict:
        """Gate A in float32; Gate B in the model's dtype, which is Gate A where the model was published in float32."""
        real: DType = "float32" if dtype == "float32" else self.truth.model_dtype
        self._traces = Path(tempfile.mkdtemp(prefix="traces-", dir=self._workdir()))
        before = self.truth.spent.mark(), self.spent.mark()
        try:
            found = self._verdict(real, variant)
        finally:
            shutil.rmtree(self._traces)
        self._passed[real, tuple(sorted(variant.items()))] = found.passed
        return replace(found, figures={**found.figures, **self._costs(real, *before)})

    def _costs(self, dtype: DType, truth: Spent, subject: Spent) -> dict[str, float]:
        """Seconds of each side by what they went into, and the device's peak in bytes."""
        found = {**self.truth.spent.figures("hugging_face", truth), **self.spent.figures("subject", subject)}
        found["peak_device_bytes"] = float(max(self.truth.spent.peak_device_bytes, self.spent.peak_device_bytes))
        return {f"{dtype}.{key}": value for key, value in found.items() if value}

    def _verdict(self, dtype: DType, variant: Mapping[str, str]) -> Verdict:
        judged = []
        self._measure_first(dtype)
        for case in self.truth.cases:
            if reason := self.truth.limits(case, dtype).untrusted:
                return verdicts.no_yardstick(reason, self.truth.coverage())
            judged.append(_let_go(self._judged(case, dtype, variant)))
            if judged[-1].instead:
                return verdicts.not_run(judged, self.truth.coverage())
        judged += self._fed(judged[0], dtype, variant)
        if judged[-1].instead:
            return verdicts.not_run(judged, self.truth.coverage())
        found = verdicts.verdict(judged, coverage={**self.truth.coverage(), **verdicts.captured(judged)})
        if (fingerprint := self.truth.fingerprint) is not None:
            found = replace(found, figures={**found.figures, FINGERPRINT: fingerprint})
        if self.explain and found.failure_class not in (None, "environment"):
            return verdicts.explained(found, self._inquest(judged, variant).diagnosis())
        return found

    def _measure_first(self, dtype: DType) -> None:
        """Everything of Hugging Face before anything of the subject: each loads its model once for all cases."""
        cases = self.truth.cases
        for case in cases:
            self.truth.oracle(case)
        for case in cases:
            self.truth.limits(case, dtype)
        if dtype == "float32":
            self.truth.limits(cases[0], dtype, fed=True)

    def _fed(self, batch: Judged, dtype: DType, variant: Mapping[str, str]) -> list[Judged]:
        """In float32 each block is also judged alone, on the reference's input, where no noise has gathered yet."""
        if dtype != "float32" or batch.fed or batch.walked.problems:
            return []
        who = Tried(self.subject, self.trial.subject_path, variant)
        fed = self._compared(batch.case, dtype, who, fed=True)
        return [fed if batch.red else _let_go(fed)]

    def _workdir(self) -> Path:
        path = Path(self.trial.workdir)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _inquest(self, judged: list[Judged], variant: Mapping[str, str]) -> Inquest:
        """The first red case is asked why: the batch where it is red, because it can be fed."""
        red = next(one for one in judged if one.red)
        return Inquest(
            truth=self.truth,
            red=red,
            fed=next((one for one in judged if one.fed and one.case is red.case), None),
            subject=self.subject,
            subject_path=self.trial.subject_path,
            third=self.third_opinion,
            formats=self._formats(),
            run=partial(self._again, variant=variant),
            workdir=Path(self.trial.workdir),
            green_in_float32=red.limits.dtype != "float32"
            and self._passed.get(("float32", tuple(sorted(variant.items()))), False),
        )

    def _again(
        self,
        subject: Subject,
        checkpoint: str,
        red: Judged,
        *,
        fed: bool,
        variant: Mapping[str, str],
        default: bool = False,
    ) -> Judged:
        """Run a red case again: fed, by another subject or over another checkpoint; `default` in that one's default."""
        who = Tried(subject, checkpoint, {} if default else variant)
        return self._compared(red.case, red.limits.dtype, who, fed=fed)

    def round_trip(self, exported_path: str) -> Verdict:
        """The exported checkpoint: tensors bit for bit, config, and its forward in stock Hugging Face."""
        original, exported = Path(self.trial.hf_path), Path(exported_path)
        try:
            before, after = roundtrip.resolved(original), roundtrip.resolved(exported)
            config = roundtrip.compare_configs(before, after)
            tensors = tuple(roundtrip.tensor_findings(original, exported, tied=bool(before.get("tie_word_embeddings"))))
            ran = self._stock(exported)
        except SubjectError as refused:
            return Verdict(passed=False, failure_class="config_mismatch", diagnosis=str(refused), half="conversion")
        return verdicts.round_trip(tensors, config, verdicts.verdict([ran], coverage={}))

    def config_sensitivity(self) -> Verdict:
        """Each config key at another legal value: where Hugging Face moves, the subject moves alike or refuses."""
        if reason := self.truth.limits(self.truth.cases[0], "float32").untrusted:
            return verdicts.no_yardstick(reason, self.truth.coverage())
        workdir = Path(tempfile.mkdtemp(prefix="keys-", dir=self._workdir()))
        try:
            found = Sensitivity(self.truth, self.subject, self._formats(), workdir).findings()
            return verdicts.sensitivity(list(found))
        finally:
            shutil.rmtree(workdir)

    def weight_liveness(self) -> Verdict:
        """Every tensor on disk shaken, converted anew, judged in float32: the subject must answer alike."""
        workdir = Path(tempfile.mkdtemp(prefix="shaken-", dir=self._workdir()))
        try:
            source, converted = perturbed(Path(self.trial.hf_path), workdir / "model"), workdir / "converted"
            self.subject.convert(ConvertRequest(str(source), str(converted), *self._formats()))
            trial = replace(self.trial, hf_path=str(source), subject_path=str(converted), workdir=str(workdir))
            truth = fresh_truth(self.truth, source, workdir / "truth")
            judge = Judge(trial, self.subject, self.hugging_face, self.third_opinion, shared_truth=truth)
            return judge.forward(dtype="float32", variant={})
        finally:
            shutil.rmtree(workdir)

    def gradients(self) -> Verdict:
        """Every parameter's gradient by Hugging Face's name, float32, the forward's floor rule.

        Raises NotOfferedError for a subject that cannot train.
        """
        if not isinstance(self.subject, Differentiable):
            raise NotOfferedError(NO_GRADIENTS)
        workdir = Path(tempfile.mkdtemp(prefix="gradients-", dir=self._workdir()))
        try:
            both = Gradients(self.truth, self.subject, self.trial.subject_path, self._formats(), workdir)
            return verdicts.gradients(both.measures())
        finally:
            shutil.rmtree(workdir)

    def _formats(self) -> tuple[str, str]:
        return self.trial.model.checkpoint_format, self.trial.model.model_config

    def _stock(self, exported: Path) -> Judged:
        """The exported checkpoint's forward in Hugging Face, held against the original's."""
        case = self.truth.cases[0]
        trace = self.truth.trace(case, "float32", {}, "exported", checkpoint=exported)
        limits, oracle = self.truth.limits(case, "float32"), self.truth.oracle(case)
        walked = self._walked(Walk(trace, oracle, case.keep, allowed=limits.token_error, device=self.trial.device))
        shutil.rmtree(trace.path)
        return Judged(case, limits, walked, ran=trace.result.ran, path=trace.path)

    def _judged(self, case: Case, dtype: DType, variant: Mapping[str, str]) -> Judged:
        who = Tried(self.subject, self.trial.subject_path, variant)
        judged = self._compared(case, dtype, who, fed=False)
        if judged.excused > FLIPS_HIDE:
            return self._compared(case, dtype, who, fed=True)
        return judged

    def _compared(self, case: Case, dtype: DType, who: Tried, *, fed: bool) -> Judged:
        oracle, limits = self.truth.oracle(case), self.truth.limits(case, dtype, fed=fed)
        result, trace = self._trace(case, dtype, who, feed=self.truth.feed(case) if fed else None)
        walk = Walk(
            *(trace, oracle, case.keep),
            part=case.part,
            allowed=limits.token_error,
            carry=not fed,
            predictions=case is self.truth.cases[0] and not (fed or who.variant),
            device=self.trial.device,
        )
        asked = {**who.variant, "dtype": dtype, "device": self.trial.device}
        instead = verdicts.did_not_run(asked, {**result.ran, "dtype": result.dtype, "device": result.device})
        return Judged(case, limits, self._walked(walk), result.ran, trace.path, fed=fed, instead=instead)

    def _walked(self, walk: Walk) -> Walked:
        with self.spent.comparing():
            return walk.run()

    def _trace(
        self, case: Case, dtype: DType, who: Tried, *, feed: TraceReader | None
    ) -> tuple[TraceResult, TraceReader]:
        output = self._traces / f"{case.name}-{len(list(self._traces.iterdir()))}"
        request = TraceRequest(
            checkpoint=who.checkpoint,
            inputs=str(self.truth.input_file(case)),
            output=str(output),
            dtype=dtype,
            device=self.trial.device,
            variant=dict(who.variant),
            capture="all",
            feed=str(feed.path) if feed else None,
        )
        self.truth.turns.take(who.subject)
        result = who.subject.trace(request)
        self.spent.ran(result)
        return result, TraceReader(output)


def _let_go(judged: Judged) -> Judged:
    """A green case's trace is of no use to a diagnosis: removed now, its memory serves the next one while warm."""
    if not judged.red:
        shutil.rmtree(judged.path, ignore_errors=True)
    return judged
