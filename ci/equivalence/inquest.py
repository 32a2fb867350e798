"""Why a comparison is red: the second passes over disk that a diagnosis needs. Runs on red only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.equivalence import diagnose, halves, layout
from ci.equivalence.diagnose import Diagnosis, place_of
from ci.equivalence.halves import Half, Witnesses
from ci.equivalence.judged import Judged
from ci.equivalence.roundtrip import resolved
from ci.equivalence.signatures import Signature, View, signature
from ci.equivalence.truth import Truth
from ci.equivalence.walk import TOP_EXPERTS, layer_of
from ci.errors import HubTestsError
from ci.subjects.base import ConvertRequest, Subject
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import scope_of

if TYPE_CHECKING:
    from torch import Tensor

    from ci.evidence import Measure

Compare = Callable[..., Judged]
"""(subject, checkpoint, case, dtype, variant, fed) → Judged, the judge's own way of running and comparing."""


INCOMPLETE = ("missing_tensor", "unexpected_tensor")
"""A trace that is not of this model says nothing about halves."""


@dataclass(frozen=True)
class Inquest:
    """One red case. `run` traces a subject's checkpoint over the case and compares it."""

    truth: Truth
    red: Judged
    fed: Judged | None
    subject: Subject
    subject_path: str
    third: Subject | None
    formats: tuple[str, str]
    run: Compare
    workdir: Path
    green_in_float32: bool = False

    def diagnosis(self) -> Diagnosis:
        """Where first, what is suspect, which half, and what else is wrong on right input."""
        if self.red.walked.problems and self.red.walked.problems[0].failure_class in INCOMPLETE:
            problem = self.red.walked.problems[0]
            return Diagnosis(place_of(problem.tensor), problem.message, float("inf"))
        fed = self.fed or self._fed()
        first = self._first_measure()
        guilty = diagnose.first_in_each_block(fed.measures) if fed else []
        local = next((m for m in guilty if first and scope_of(m.tensor) == scope_of(first.tensor)), None)
        place = place_of((local or first).tensor if first else self.red.walked.problems[0].tensor)
        source = fed if fed and local else self.red
        half = self._half()
        return Diagnosis(
            place=place,
            suspect=self._suspect(place.tensor, source) if first else self.red.walked.problems[0].message,
            times=first.used * self.red.limits.factor if first else float("inf"),
            half=half.name,
            because=half.because,
            others=tuple(place_of(m.tensor) for m in guilty if scope_of(m.tensor) != scope_of(place.tensor)),
        )

    def _first_measure(self) -> Measure | None:
        """The first failing tensor; None where a problem ended the walk before any number failed."""
        return next((measure for measure in self.red.measures if not measure.passed), None)

    def _fed(self) -> Judged | None:
        """Each block on the reference's input, where the subject can."""
        if self.red.walked.problems:
            return None
        try:
            return self.run(self.subject, self.subject_path, self.red, fed=True)
        except HubTestsError:
            return None

    def _suspect(self, tensor: str, source: Judged) -> str:
        low = self.red.limits.dtype if self.green_in_float32 else ""
        name = tensor.replace(TOP_EXPERTS, "mlp.router_logits")
        if name not in source.walked.differences:
            return diagnose.suspect(place_of(tensor), Signature(), only_low_precision=low)
        return diagnose.suspect(place_of(tensor), signature(self._view(name, source)), only_low_precision=low)

    def _view(self, name: str, source: Judged) -> View:
        actual, oracle, part = TraceReader(source.path), self.truth.oracle(source.case), source.case.part
        by_token = source.walked.differences[name].by_token
        keep = ~by_token.isnan()
        position = source.case.keep.long().cumsum(-1) - 1
        return View(
            actual=actual.tensor(name),
            expected=part.of(oracle.tensor(name)),
            wrong=keep & ~(by_token <= source.limits.token_error(name)),
            keep=keep,
            position=position,
            window=self.truth.needs.window,
            siblings={other: part.of(oracle.tensor(other)) for other in _siblings(name) if other in oracle},
            experts=self._experts(name, oracle, source),
        )

    def _experts(self, name: str, oracle: TraceReader, source: Judged) -> Tensor | None:
        chosen = f"decoder.{layer_of(name)}.{TOP_EXPERTS}"
        return source.case.part.of(oracle.tensor(chosen)) if name.endswith(".mlp") and chosen in oracle else None

    def _half(self) -> Half:
        if self.green_in_float32:
            return Half(halves.KERNEL, "the same checkpoint is right in float32")
        return halves.decide(self._witnesses())

    def _witnesses(self) -> Witnesses:
        path = Path(self.subject_path)
        agrees = self._agrees(self.third, self.subject_path)
        named = agrees is not True
        return Witnesses(
            tensors=_or_none(lambda: layout.wrong_tensors(self.truth.checkpoint, path)) if named else None,
            config=_or_none(lambda: halves.wrong_keys(resolved(self.truth.checkpoint), _architecture(path))),
            third_agrees=agrees,
            on_right_conversion=self._on_right_conversion() if agrees is False else None,
        )

    def _agrees(self, subject: Subject | None, checkpoint: str) -> bool | None:
        """Whether a forward over a checkpoint equals Hugging Face's; None where it cannot be had."""
        if subject is None:
            return None
        try:
            return not self.run(subject, checkpoint, self.red, fed=self.red.fed, default=True).red
        except HubTestsError:
            return None

    def _on_right_conversion(self) -> bool | None:
        """The subject's forward over the third opinion's own conversion."""
        target = self.workdir / "third-conversion"
        shutil.rmtree(target, ignore_errors=True)
        request = ConvertRequest(str(self.truth.checkpoint), str(target), *self.formats)
        try:
            if self.third is None:
                return None
            self.third.convert(request)
            return self._agrees(self.subject, str(target))
        except HubTestsError:
            return None
        finally:
            shutil.rmtree(target, ignore_errors=True)


def _siblings(name: str) -> list[str]:
    """Tensors of the same shape that could be taken for this one."""
    pairs = {".mixer.key": ".mixer.value", ".mixer.value": ".mixer.key", ".norm_1": ".norm_2", ".norm_2": ".norm_1"}
    return [name.removesuffix(end) + other for end, other in pairs.items() if name.endswith(end)]


def _architecture(path: Path) -> object:
    from ci.subjects.reference.directories import read_fast_llm

    return read_fast_llm(path).architecture


def _or_none(look: Callable[[], list[str] | tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """A witness that does not understand what it sees says nothing."""
    try:
        found = look()
    except (HubTestsError, KeyError, TypeError):
        return None
    return None if found is None else tuple(found)
