"""Finds out why a comparison failed: further runs and checks of the converted checkpoint, only after a failure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ci.equivalence.attribution import KERNEL, AttributionEvidence, FaultyComponent, attribute
from ci.equivalence.case_result import CaseComparison
from ci.equivalence.converted_config import find_wrong_keys
from ci.equivalence.converted_weights import find_wrong_tensors
from ci.equivalence.diagnosis import Diagnosis, first_failure_per_block
from ci.equivalence.error_signature import ErrorSignature, WrongTensor, compute_signature
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.image_rows import ImageRows
from ci.equivalence.round_trip import resolve_config
from ci.equivalence.suspects import describe_suspect
from ci.equivalence.tensor_location import locate_tensor
from ci.errors import HubTestsError, UnsupportedError
from ci.subjects.base import ConvertRequest, Subject
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import (
    KEY,
    MLP,
    NORM_1,
    NORM_2,
    ROUTER_LOGITS,
    TOP_EXPERTS,
    VALUE,
    is_vision,
    layer_of,
    list_unseen_before,
    operation_of,
    scope_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ci.equivalence.input_case import InputCase
    from ci.evidence import Measure
    from ci.subjects.base import HuggingFaceRunner

INCOMPLETE = ("missing_tensor", "unexpected_tensor")
"""A trace with these problems is not one of this model: it says nothing about conversion or kernel."""
MIXER_AXIS = "mixer"
"""The axis of variants that are other functions, with trained weights of their own."""
SIBLINGS = {KEY: VALUE, VALUE: KEY, NORM_1: NORM_2, NORM_2: NORM_1}
"""Operations of one shape that could be mistaken for each other."""


@dataclass(frozen=True)
class ForwardSpec:
    """A forward pass to run: the subject, its checkpoint directory, and the variant."""

    subject: Subject
    checkpoint: str
    variant: Mapping[str, str]


class RunCase(Protocol):
    """How the judge runs and compares a case again."""

    def __call__(self, spec: ForwardSpec, like: CaseComparison, *, teacher_forced: bool) -> CaseComparison:
        """Compare another forward pass over the case and in the dtype of `like`."""
        ...


@dataclass(frozen=True)
class RootCauseAnalysis:
    """The analysis of one failed case, which `spec` ran. `run_case` runs it again, otherwise.

    `teacher_forced` is the comparison of the same case block by block, where there is one already. `cross_check` is
    another implementation that reads the subject's checkpoints.
    """

    reference: ReferenceRun
    failed: CaseComparison
    teacher_forced: CaseComparison | None
    spec: ForwardSpec
    cross_check: Subject | None
    formats: tuple[str, str]
    run_case: RunCase
    workdir: Path
    passed_in_float32: bool = False

    def diagnose(self) -> Diagnosis:
        """Find where the error begins, the suspect, and the faulty component."""
        problem = next(iter(self.failed.diff.problems), None)
        if problem and problem.failure_class in INCOMPLETE:
            return Diagnosis(locate_tensor(problem.tensor), problem.message, measured=False)
        forced = self.teacher_forced or self._run_teacher_forced()
        first = self._find_first_failure()
        per_block = first_failure_per_block(forced.measures) if forced else []
        local = next((m for m in per_block if first and scope_of(m.tensor) == scope_of(first.tensor)), None)
        component = self._attribute()
        if first is None:
            assert problem is not None  # noqa: S101 (a failed case has one or the other)
            location, suspect = locate_tensor(problem.tensor), problem.message
        else:
            location = locate_tensor((local or first).tensor)
            suspect = self._describe_suspect(location.tensor, forced if forced and local else self.failed)
        others = (m.tensor for m in per_block if scope_of(m.tensor) != scope_of(location.tensor))
        return Diagnosis(
            location=location,
            suspect=suspect,
            measured=first is not None,
            component=component.name,
            reason=component.reason,
            others=tuple(map(locate_tensor, others)),
        )

    def _find_first_failure(self) -> Measure | None:
        """Return the first failed tensor; None where a problem ended the comparison before any number failed."""
        return next((measure for measure in self.failed.measures if not measure.passed), None)

    def _run_teacher_forced(self) -> CaseComparison | None:
        """Compare each block on the expected input, where the subject can."""
        if self.failed.diff.problems:
            return None
        try:
            return self.run_case(self.spec, self.failed, teacher_forced=True)
        except HubTestsError:
            return None

    def _describe_suspect(self, tensor: str, source: CaseComparison) -> str:
        low = self.failed.tolerances.dtype if self.passed_in_float32 else ""
        name = tensor.replace(TOP_EXPERTS, ROUTER_LOGITS)
        known = name in source.diff.tensors
        signature = compute_signature(self._read_wrong_tensor(name, source)) if known else ErrorSignature()
        suspect = describe_suspect(tensor, signature, only_low_precision=low)
        unseen = list_unseen_before(name, source.diff.not_captured)
        if not unseen or low:
            return suspect
        return f"begins in {', '.join(unseen)} (not captured), or here: {suspect}"

    def _read_wrong_tensor(self, name: str, source: CaseComparison) -> WrongTensor:
        actual, expected = TraceReader(source.path), self.reference.get_expected_trace(source.case)
        part, by_token = source.case.part, source.diff.tensors[name].by_token
        keep = ~by_token.isnan()
        wrong = keep & ~(by_token <= source.tolerances.get_token_limit(name))
        siblings = {other: part.cut(expected.tensor(other)) for other in _list_siblings(name) if other in expected}
        if is_vision(name) and (rows := self._find_image_rows(source.case)):
            return WrongTensor(
                actual=rows.arrange(actual.tensor(name)),
                expected=rows.arrange(part.cut(expected.tensor(name))),
                wrong=rows.arrange(wrong),
                keep=rows.keep,
                position=rows.keep.long().cumsum(-1) - 1,
                siblings={other: rows.arrange(tensor) for other, tensor in siblings.items()},
            )
        return WrongTensor(
            actual=actual.tensor(name),
            expected=part.cut(expected.tensor(name)),
            wrong=wrong,
            keep=keep,
            position=source.case.keep.long().cumsum(-1) - 1,
            window=self.reference.requirements.window,
            siblings=siblings,
            experts=self._read_experts(name, expected, source),
            image=source.case.image_tokens,
        )

    def _find_image_rows(self, case: InputCase) -> ImageRows | None:
        """Return where each image of a case has its patches; None where there is not one token a patch."""
        tokens, needs = case.image_tokens, self.reference.requirements.images
        if tokens is None or needs is None or case.images is None:
            return None
        rows = ImageRows.of_images(tokens, case.images, needs.patch)
        return rows if sum(rows.counts) == int(tokens.sum()) else None

    def _read_experts(self, name: str, expected: TraceReader, source: CaseComparison) -> Tensor | None:
        chosen = f"decoder.{layer_of(name)}.{TOP_EXPERTS}"
        if operation_of(name) != MLP or chosen not in expected:
            return None
        return source.case.part.cut(expected.tensor(chosen))

    def _attribute(self) -> FaultyComponent:
        if self.passed_in_float32:
            return FaultyComponent(KERNEL, "the same checkpoint is right in float32")
        return attribute(self._collect_evidence())

    def _collect_evidence(self) -> AttributionEvidence:
        """Check the converted checkpoint; a cross-check that agrees makes the check of its tensors needless."""
        original, converted = self.reference.checkpoint, Path(self.spec.checkpoint)
        agrees = self._is_right(self.cross_check, self.spec.checkpoint, self._other_function)
        check_tensors = agrees is not True
        return AttributionEvidence(
            wrong_tensors=_try_check(lambda: find_wrong_tensors(original, converted)) if check_tensors else None,
            wrong_keys=_try_check(lambda: _check_config(original, converted, self.reference.hugging_face)),
            cross_check_agrees=agrees,
            right_on_cross_conversion=None if agrees else self._is_right_on_cross_conversion(),
            refused="" if agrees else _find_refused(converted),
        )

    @property
    def _other_function(self) -> dict[str, str]:
        """The part of the variant that is another function of the model, which the cross-check must compute too."""
        return {axis: name for axis, name in self.spec.variant.items() if axis == MIXER_AXIS}

    def _is_right(self, subject: Subject | None, checkpoint: str, variant: Mapping[str, str]) -> bool | None:
        """Return whether a forward pass equals Hugging Face's; None where there is none."""
        if subject is None:
            return None
        spec = ForwardSpec(subject, checkpoint, variant)
        try:
            return not self.run_case(spec, self.failed, teacher_forced=self.failed.teacher_forced).failed
        except HubTestsError:
            return None

    def _is_right_on_cross_conversion(self) -> bool | None:
        """Return whether the subject, in the variant that failed, is right over the cross-check's conversion."""
        if self.cross_check is None:
            return None
        target = self.workdir / "cross-conversion"
        shutil.rmtree(target, ignore_errors=True)
        try:
            self.cross_check.convert(ConvertRequest(str(self.reference.checkpoint), str(target), *self.formats))
            return self._is_right(self.spec.subject, str(target), self.spec.variant)
        except HubTestsError:
            return None
        finally:
            shutil.rmtree(target, ignore_errors=True)


def _list_siblings(name: str) -> list[str]:
    """List the tensors of the same shape that could have been taken for this one."""
    operation = operation_of(name)
    return [name.removesuffix(operation) + SIBLINGS[operation]] if operation in SIBLINGS else []


def _check_config(original: Path, converted: Path, side: HuggingFaceRunner) -> tuple[str, ...]:
    from ci.subjects.reference.directories import read_fast_llm

    return find_wrong_keys(resolve_config(original, side), read_fast_llm(converted).architecture)


def _find_refused(converted: Path) -> str:
    """Return the feature of a converted architecture that the reference refuses by name; empty without one."""
    from ci.subjects.reference.directories import read_fast_llm

    try:
        read_fast_llm(converted)
    except UnsupportedError as refusal:
        return str(refusal)
    except (HubTestsError, KeyError, TypeError):
        return ""  # another layout
    return ""


def _try_check(check: Callable[[], list[str] | tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Run a check; None where it cannot read what it finds."""
    try:
        wrong = check()
    except (HubTestsError, KeyError, TypeError):
        return None
    return None if wrong is None else tuple(wrong)
