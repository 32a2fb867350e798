"""The verdict: traces of the subject held against the truth, gate by gate. Only orchestrates."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.equivalence import roundtrip, verdicts
from ci.equivalence.truth import Truth
from ci.equivalence.verdicts import Judged, Verdict
from ci.equivalence.walk import Walk
from ci.errors import SubjectError
from ci.models import HubModel
from ci.subjects.base import DType, Subject, TraceRequest, TraceResult
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.tracefile import TraceReader

if TYPE_CHECKING:
    from collections.abc import Mapping

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


@dataclass
class Judge:
    """Holds one subject's conversion of one model against Hugging Face; truth and floors are measured once."""

    trial: Trial
    subject: Subject
    hugging_face: HuggingFace
    third_opinion: Subject | None = None
    truth: Truth = field(init=False)
    subject_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        trial = self.trial
        self.truth = Truth(
            checkpoint=Path(trial.hf_path),
            params=trial.model.test_params,
            hugging_face=self.hugging_face,
            device=trial.device,
            workdir=Path(trial.workdir) / "truth",
        )

    def forward(self, *, dtype: Literal["float32", "model"], variant: Mapping[str, str]) -> Verdict:
        """Gate A in float32; Gate B in the model's dtype, which is Gate A where the model was published in float32."""
        real: DType = "float32" if dtype == "float32" else self.truth.model_dtype
        judged = []
        for case in self.truth.cases:
            result = self._judged(case, real, variant)
            judged.append(result)
            if missing := verdicts.did_not_run(variant, result.ran):
                return verdicts.not_run(missing, judged, self.truth.coverage())
        verdict = verdicts.verdict(judged, coverage=self.truth.coverage())
        self._clean(judged)
        return verdict

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

    def _stock(self, exported: Path) -> Judged:
        """The exported checkpoint's forward in Hugging Face, held against the original's."""
        case = self.truth.cases[0]
        trace = self.truth.trace(case, "float32", {}, "exported", checkpoint=exported)
        limits, oracle = self.truth.limits(case, "float32"), self.truth.oracle(case)
        walked = Walk(trace, oracle, case.keep, allowed=limits.token_error).run()
        shutil.rmtree(trace.path)
        return Judged(case, limits, walked, ran=trace.result.ran, path=trace.path)

    def _judged(self, case: Case, dtype: DType, variant: Mapping[str, str]) -> Judged:
        judged = self._compared(case, dtype, variant, fed=False)
        if judged.excused > FLIPS_HIDE:
            return self._compared(case, dtype, variant, fed=True)
        return judged

    def _compared(self, case: Case, dtype: DType, variant: Mapping[str, str], *, fed: bool) -> Judged:
        oracle, limits = self.truth.oracle(case), self.truth.limits(case, dtype, fed=fed)
        result, trace = self._trace(case, dtype, variant, feed=oracle if fed else None)
        walked = Walk(trace, oracle, case.keep, part=case.part, allowed=limits.token_error, carry=not fed).run()
        return Judged(case, limits, walked, ran=result.ran, path=trace.path, fed=fed)

    def _trace(
        self, case: Case, dtype: DType, variant: Mapping[str, str], *, feed: TraceReader | None
    ) -> tuple[TraceResult, TraceReader]:
        output = Path(self.trial.workdir) / f"subject-{case.name}{'-fed' if feed else ''}"
        shutil.rmtree(output, ignore_errors=True)
        request = TraceRequest(
            checkpoint=self.trial.subject_path,
            inputs=str(self.truth.input_file(case)),
            output=str(output),
            dtype=dtype,
            device=self.trial.device,
            variant=dict(variant),
            capture="all",
            feed=str(feed.path) if feed else None,
        )
        result = self.subject.trace(request)
        self.subject_seconds += result.seconds
        return replace(result, ran=dict(result.ran)), TraceReader(output)

    def _clean(self, judged: list[Judged]) -> None:
        for one in judged:
            shutil.rmtree(one.path, ignore_errors=True)
