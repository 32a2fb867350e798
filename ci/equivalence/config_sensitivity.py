"""Tests whether every config key is honoured: where a change moves Hugging Face's answer, it must move the subject's.

A conversion that drops a key keeps every weight bit for bit, and answers as if the key were not there.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.equivalence import config_changes
from ci.equivalence.composite_config import set_keys
from ci.equivalence.config_changes import ConfigChange
from ci.equivalence.device_usage import CostMeter
from ci.equivalence.edited_checkpoint import copy_with_config
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.trace_compare import compare_logits
from ci.equivalence.verdict import Verdict, build_inconclusive_verdict
from ci.errors import HubTestsError, InfrastructureError, SubjectError
from ci.subjects.base import ConvertRequest, Subject, TraceRequest
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import LOGITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci.equivalence.inputs import InputCase

KeyOutcome = Literal["alike", "refused", "inert", "not legal", "silently ignored", "differs", "not judged"]
WRONG: tuple[KeyOutcome, ...] = ("silently ignored", "differs")
UNCHANGED = "the unchanged config"
WRONG_ALREADY = 2.0
"""A subject that is wrong without a change honours a key where the change adds no more than that error again."""


@dataclass(frozen=True)
class KeyResult:
    """The outcome of one change. `error` and `limit` are of the logits, relative L2; `acts_as` another change's name.

    `message` is the refusal of the subject or of transformers.
    """

    change: ConfigChange
    outcome: KeyOutcome
    error: float = 0.0
    limit: float = 0.0
    acts_as: str = ""
    message: str = ""

    def __str__(self) -> str:
        name = self.change.name
        if self.outcome == "silently ignored":
            return f"{name} is silently ignored"
        if self.change.name == UNCHANGED:
            return f"{name} is wrong already: logits off by {self.error:.2g}"
        if self.outcome == "differs":
            instead = f", it answers as {self.acts_as} would" if self.acts_as else ""
            return f"{name} is converted to something else{instead}: logits off by {self.error:.2g}"
        return f"{name}: {self.outcome}{f' ({self.message})' if self.message else ''}"


@dataclass
class ConfigSensitivity:
    """Tries every change of config.json. Weights are linked, not copied; one converted copy is on disk at a time."""

    reference: ReferenceRun
    subject: Subject
    formats: tuple[str, str]
    workdir: Path
    _answers: dict[str, TraceReader] = field(default_factory=dict)
    _unchanged: KeyResult | None = None

    def try_changes(self) -> Iterator[KeyResult]:
        """Yield one result a change, then one for all that the subject answered alike, set together.

        Answers that differ come last, when every other answer is known.
        """
        config, resolved = self.reference.config, self.reference.runner.resolve_config()
        self._answers[UNCHANGED] = self.reference.get_expected_trace(self._case)
        results = [self._try_edited(change) for change in config_changes.list_changes(config, resolved)]
        if any(result.outcome == "differs" for result in results):
            results = self._regard_unchanged(results)
        alike = [result.change for result in results if result.outcome == "alike"]
        results += [self._try_edited(change) for change in config_changes.combine_changes(alike)]
        last = [r for r in results if r.outcome == "differs" and r is not self._unchanged]
        yield from (result for result in results if result not in last)
        yield from map(self._recognize, last)

    def list_untried_keys(self) -> tuple[str, ...]:
        """List the keys of config.json that no change is known for."""
        return config_changes.list_untried_keys(self.reference.runner.resolve_config())

    def _try_edited(self, change: ConfigChange) -> KeyResult:
        with self._edit_checkpoint(change) as directory:
            return self._try_change(change, directory)

    @property
    def _case(self) -> InputCase:
        return self.reference.cases[0]

    @property
    def _limit(self) -> float:
        """The error limit of the logits in float32."""
        return self.reference.get_tolerances(self._case, "float32").get_error_limit(LOGITS)

    @contextmanager
    def _edit_checkpoint(self, change: ConfigChange) -> Iterator[Path]:
        """Make a directory with the same weights and the changed config for the block."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="edited-", dir=self.workdir))
        try:
            edited = set_keys(self.reference.config, change.keys)
            yield copy_with_config(self.reference.checkpoint, directory / "edited", edited)
        finally:
            shutil.rmtree(directory)

    def _try_change(self, change: ConfigChange, directory: Path) -> KeyResult:
        try:
            answer = self.reference.runner.run_trace(
                self._case,
                self.reference.expected_dtype,
                self.reference.runner.choose_variant("eager"),
                f"answer-{len(self._answers)}",
                checkpoint=directory,
            )
        except InfrastructureError:
            raise
        except HubTestsError as illegal:
            return KeyResult(change, "not legal", message=str(illegal)[-200:])
        moved = self._compare_logits(answer, UNCHANGED)
        if not moved > self._limit or math.isinf(moved):
            shutil.rmtree(answer.path)
            return KeyResult(change, "not legal" if math.isinf(moved) else "inert")
        self._answers[change.name] = answer
        try:
            return self._compare_answer(change, self._run_subject(directory, change.name))
        except InfrastructureError:
            raise
        except HubTestsError as refused:
            return KeyResult(change, "refused", message=str(refused)[:200])

    def _run_subject(self, directory: Path, name: str) -> TraceReader:
        converted, output = self.workdir / "converted", self._subject_output(name)
        shutil.rmtree(converted, ignore_errors=True)
        try:
            costs = CostMeter(clock=self.reference.costs.clock)
            with costs.clock.measure("convert", "import"):
                self.subject.convert(ConvertRequest(str(directory), str(converted), *self.formats))
            inputs = str(self.reference.runner.write_inputs(self._case))
            self.reference.lease.acquire(self.subject)
            request = TraceRequest(str(converted), inputs, str(output), device=self.reference.device)
            costs.run_trace("subject float32", lambda: self.subject.trace(request))
        finally:
            shutil.rmtree(converted, ignore_errors=True)
        return TraceReader(output)

    def _subject_output(self, name: str) -> Path:
        return self.workdir / f"answer-to-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    def _compare_answer(self, change: ConfigChange, actual: TraceReader) -> KeyResult:
        """Compare the subject's answer with Hugging Face's; one that differs is kept, to be recognized later."""
        limit, error = self._limit, self._compare_logits(actual, change.name)
        if error > self._allowed and self._compare_logits(actual, UNCHANGED) > limit:
            return KeyResult(change, "differs", error, limit)
        shutil.rmtree(actual.path)
        return KeyResult(change, "alike" if error <= self._allowed else "silently ignored", error, limit)

    def _regard_unchanged(self, results: list[KeyResult]) -> list[KeyResult]:
        """Return the results with that of the unchanged config, where the subject is wrong there already.

        Then every answer is wrong, so a key counts as honoured where the change adds little to that.
        """
        change = ConfigChange(UNCHANGED, {})
        try:
            with self._edit_checkpoint(change) as directory:
                trace = self._run_subject(directory, change.name)
        except SubjectError:
            return results
        error = self._compare_logits(trace, UNCHANGED)
        if error <= self._limit:
            return results
        self._unchanged = KeyResult(change, "differs", error, self._limit)
        return [self._unchanged, *(self._judge_again(r, trace) if r.outcome == "differs" else r for r in results)]

    def _judge_again(self, result: KeyResult, unchanged: TraceReader) -> KeyResult:
        actual = TraceReader(self._subject_output(result.change.name))
        if compare_logits(actual, unchanged, self._case.keep) <= result.limit:
            return replace(result, outcome="silently ignored")
        if self._compare_logits(self._answers[result.change.name], UNCHANGED) <= self._allowed:
            return replace(result, outcome="not judged")  # what was wrong before hides whether the key is honoured
        return replace(result, outcome="alike") if result.error <= self._allowed else result

    @property
    def _allowed(self) -> float:
        """The largest error of an answer that honours a key."""
        return WRONG_ALREADY * self._unchanged.error if self._unchanged else self._limit

    def _recognize(self, result: KeyResult) -> KeyResult:
        """Find the change whose right answer the subject gave instead."""
        actual = TraceReader(self._subject_output(result.change.name))
        errors = {name: self._compare_logits(actual, name) for name in self._answers}
        return replace(result, acts_as=next((name for name, error in errors.items() if error <= result.limit), ""))

    def _compare_logits(self, actual: TraceReader, name: str) -> float:
        return compare_logits(actual, self._answers[name], self._case.keep)


def build_sensitivity_verdict(results: Sequence[KeyResult], untried: Sequence[str] = ()) -> Verdict:
    """Build the verdict: failed where a key is ignored or converted to something else.

    It is inconclusive where no change moves Hugging Face's answer. `untried` are keys that nothing was tried for.
    """
    wrong = [result for result in results if result.outcome in WRONG]
    counts = Counter(result.outcome for result in results)
    if not wrong and not counts["alike"] + counts["refused"]:
        reason = "inconclusive: no config key that was tried changes Hugging Face's own answer"
        return build_inconclusive_verdict(reason, {})
    return Verdict(
        passed=not wrong,
        failure_class="config_mismatch" if wrong else None,
        diagnosis="; ".join(map(str, wrong)),
        component="conversion" if wrong else "",
        coverage={
            **{f"config key {result.change.name}": result.outcome for result in results},
            **{f"config key {key}": "not covered: no other value is known" for key in untried},
        },
        figures={f"config_keys_{outcome.replace(' ', '_')}": float(count) for outcome, count in counts.items()},
        notes=tuple(str(result) for result in results if result.outcome == "refused"),
    )
