"""Serves the original and the export with a consumer, and scores both against Hugging Face; the rule is elsewhere."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from ci.consumers.base import (
    BATCH_INVARIANT,
    CONTINUED_TOKENS,
    TOP,
    Consumer,
    ContinueRequest,
    ContinueResult,
    ScoreRequest,
    ScoreResult,
)
from ci.consumers.score_files import Continuation, Scores, read_continuation, read_scores
from ci.consumers.transformers_engine import TransformersEngine
from ci.equivalence.export_files import read_stop_ids
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.served_files import compare_served_files
from ci.equivalence.served_routing import find_explained_flips, find_near_ties
from ci.equivalence.served_scores import measure_gap, split_mismatch
from ci.equivalence.served_verdict import (
    ServedCase,
    ServedContinuation,
    ServedResults,
    build_refused_verdict,
    build_served_verdict,
)
from ci.equivalence.tolerances import SERVED_OUTLIER, TEACHER_FORCING_SHARE
from ci.equivalence.verdict import Verdict, apply_policy
from ci.errors import NotOfferedError, SubjectError
from ci.models import Policy
from ci.subjects.base import Subject, TraceRequest
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import LOGITS, ROUTER_LOGITS, TOP_EXPERTS

if TYPE_CHECKING:
    from torch import Tensor

    from ci.equivalence.inputs import InputCase
    from ci.equivalence.served_routing import ServedFlips
    from ci.equivalence.served_scores import MismatchShares
    from ci.subjects.base import DType

PROBED_STOPS = 8
"""The most stop ids of original and export that an engine is asked about."""


@dataclass(frozen=True)
class Served:
    """What a consumer did with one directory in one dtype: scores by case, a continuation, and both results."""

    scores: dict[str, Scores]
    continuation: Continuation
    results: tuple[ScoreResult, ContinueResult]


@dataclass
class ServedExport:
    """Compares a served export with the served original. `trainer` is the subject and its converted checkpoint.

    Every directory is served once in each dtype; traces and scores lie in `workdir` until it is removed.
    """

    reference: ReferenceRun
    consumer: Consumer
    exported: Path
    workdir: Path
    trainer: tuple[Subject, str] | None = None
    policy: Policy = "warn"

    def check(self) -> tuple[Verdict, ...]:
        """Return the verdict in float32 and in the published dtype.

        Raises NotOfferedError where the engine does not serve the original either: nothing is said about the export.
        """
        dtypes: dict[DType, None] = dict.fromkeys(("float32", self.reference.model_dtype))
        verdicts = []
        for dtype in dtypes:
            verdict = self._check_dtype(dtype)
            verdicts.append(verdict)
            if not verdict.measures:  # the engine does not load it, in any dtype
                break
        self.consumer.release()
        return tuple(verdicts)

    def _check_dtype(self, dtype: DType) -> Verdict:
        engine = self.consumer.describe()
        name = f"{engine.consumer} {engine.version}"
        expected = self._run_hugging_face(dtype)
        try:
            original = self._serve(self.consumer, self.reference.checkpoint, dtype, "original")
        except SubjectError as refused:
            raise NotOfferedError(f"{name} does not serve the original either: {refused}") from None
        try:
            export = self._serve(self.consumer, self.exported, dtype, "export")
        except SubjectError as refused:
            return build_refused_verdict(str(refused), name)
        cases = tuple(self._combine(case, dtype, expected, original, export) for case in self.reference.cases)
        continuation = ServedContinuation(dtype, expected.continuation, original.continuation, export.continuation)
        mismatch, notes = self._measure_mismatch(dtype, expected, export)
        results = ServedResults(dtype, cases, continuation, mismatch, notes, self._describe_coverage(cases))
        verdict = build_served_verdict(results, name)
        findings = tuple(map(str, compare_served_files(original.results, export.results)))
        return apply_policy(verdict, findings, "export_incomplete", self.policy)

    def _run_hugging_face(self, dtype: DType) -> Served:
        """Score the original with transformers, in this process, and free it again."""
        engine = TransformersEngine(attention="eager")
        try:
            return self._serve(engine, self.reference.checkpoint, dtype, "hugging-face")
        finally:
            engine.release()

    def _serve(self, consumer: Consumer, checkpoint: Path, dtype: DType, name: str) -> Served:
        """Score every case and continue the batch; the longest case first, so that an engine starts once."""
        cases = sorted(self.reference.cases, key=lambda case: -case.ids.shape[1])
        self.reference.lease.acquire(consumer)
        scores, files = {}, self.workdir / f"{dtype}-{name}"
        with self.reference.costs.clock.measure("forward", f"served {name} {dtype}"):
            for case in cases:
                output = files / case.name
                request = ScoreRequest(str(checkpoint), str(self._write(case)), str(output), dtype, self.device)
                result = consumer.score(request)
                scores[case.name] = read_scores(output, self._cut(case.keep, 1), TOP)
            batch, output = self.reference.cases[0], files / "continuation"
            prompts = str(self._write(batch, CONTINUED_TOKENS))
            ask = ContinueRequest(str(checkpoint), prompts, str(output), dtype, self.device, stop_ids=self._stop_ids)
            continued = consumer.continue_greedily(ask)
            continuation = read_continuation(output, len(batch.ids), CONTINUED_TOKENS, TOP)
        shutil.rmtree(files)
        return Served(scores, continuation, (result, continued))

    @property
    def _stop_ids(self) -> tuple[int, ...]:
        """The ends of the original, then what only the export ends at: one too many stops a text too early."""
        before, after = read_stop_ids(self.reference.checkpoint), read_stop_ids(self.exported)
        within = [token for token in (*sorted(before), *sorted(after - before)) if self._is_token(token)]
        return tuple(within)[:PROBED_STOPS]

    def _is_token(self, token: int) -> bool:
        return 0 <= token < self.reference.requirements.vocabulary

    @property
    def device(self) -> str:
        """The device of the run."""
        return self.reference.device

    def _cut(self, tensor: Tensor, room: int) -> Tensor:
        """Cut (B, T) to the last columns that leave an engine `room` tokens."""
        positions = self.reference.requirements.positions
        return tensor if positions is None else tensor[:, -max(2, positions - room) :]

    def _write(self, case: InputCase, room: int = 1) -> Path:
        file = self.workdir / f"{case.name}-{room}.safetensors"
        if not file.exists():
            self.workdir.mkdir(parents=True, exist_ok=True)
            mask = {} if case.mask is None else {"attention_mask": self._cut(case.mask, room).contiguous()}
            save_file({"input_ids": self._cut(case.ids, room).contiguous(), **mask}, file)
        return file

    def _combine(self, case: InputCase, dtype: DType, *sides: Served) -> ServedCase:
        expected, original, export = (side.scores[case.name] for side in sides)
        keep = self._cut(case.keep, 1).bool()
        flips = self._find_flips(case, dtype, keep, expected, original, export)
        return ServedCase(case.name, dtype, keep, expected, original, export, flips)

    def _find_flips(self, case: InputCase, dtype: DType, keep: Tensor, *sides: Scores) -> ServedFlips | None:
        """Return the tokens that a flipped choice of experts explains, None where routing says nothing."""
        if not self.reference.requirements.experts:
            return None
        near_ties = self._find_near_ties(case, dtype)
        if near_ties is None:
            return None
        expected, *served = (side.logprobs for side in sides)
        original, export = (measure_gap(side, expected, keep) for side in served)
        flips = find_explained_flips(
            original, export, self._cut(near_ties, 1), SERVED_OUTLIER * original.quantiles()[0]
        )
        excused = float(flips.either.sum()) / max(1, original.tokens)
        return flips if excused <= TEACHER_FORCING_SHARE else None

    def _find_near_ties(self, case: InputCase, dtype: DType) -> Tensor | None:
        """Return bool (B, T): in some layer rounding can flip the choice of experts, by the measured noise."""
        trace, tolerances = self.reference.get_expected_trace(case), self.reference.get_tolerances(case, dtype)
        near = torch.zeros(case.ids.shape, dtype=torch.bool)
        names = [name for name in trace if name.endswith(ROUTER_LOGITS)]
        for name in names:
            logits = case.part.cut(trace.tensor(name))
            chosen = trace.tensor(name.replace(ROUTER_LOGITS, TOP_EXPERTS))
            limit = tolerances.get_flip_gap_limit(name) * logits.double().norm(dim=-1)
            near |= find_near_ties(logits, chosen.shape[-1], limit)
        return near if names else None

    def _measure_mismatch(
        self, dtype: DType, expected: Served, export: Served
    ) -> tuple[MismatchShares | None, tuple[str, ...]]:
        """Measure the trainer's own log-probabilities of the batch against the engine's, or say why not."""
        if self.trainer is None:
            return None, ()
        batch, (subject, checkpoint) = self.reference.cases[0], self.trainer
        output = self.workdir / f"trainer-{dtype}"
        inputs = str(self._write(batch))
        try:
            self.reference.lease.acquire(subject)
            subject.trace(TraceRequest(checkpoint, inputs, str(output), dtype, self.device))
        except SubjectError as problem:
            return None, (f"trainer against rollout, {dtype}: not measured: {problem}",)
        ids = self._cut(batch.ids, 1)
        logprobs = score_logits(TraceReader(output).tensor(LOGITS), ids)
        with suppress(OSError):
            shutil.rmtree(output)
        engine, hugging_face = (side.scores[batch.name].logprobs for side in (export, expected))
        return split_mismatch(logprobs, hugging_face, engine, self._cut(batch.keep, 1).bool()), ()

    def _describe_coverage(self, cases: tuple[ServedCase, ...]) -> dict[str, str]:
        engine = self.consumer.describe()
        libraries = ", ".join(f"{name} {version}" for name, version in sorted(engine.libraries.items()))
        flags = "; ".join(f"{name}: {flag}" for name, flag in sorted(engine.flags.items()) if name != BATCH_INVARIANT)
        inputs = ", ".join(f"{case.name} {case.keep.shape[0]} x {case.keep.shape[1]}" for case in cases)
        return {
            "served by": f"{engine.consumer} {engine.version} ({libraries}); {flags}",
            "served inputs": f"{inputs}; {CONTINUED_TOKENS} greedy tokens of each row of the batch",
            "served batch invariance": engine.flags.get(BATCH_INVARIANT, "not said"),
        }


def score_logits(logits: Tensor, ids: Tensor) -> Tensor:
    """Return log p, float32 (B, T), of ids (B, T) by logits (B, T, vocabulary); NaN for the first token."""
    logprobs = torch.full(ids.shape, float("nan"))
    for row in range(len(ids)):  # one row at a time: a batch of logits in float32 can be large
        scored = torch.log_softmax(logits[row, :-1].float(), dim=-1)
        logprobs[row, 1:] = scored.gather(-1, ids[row, 1:, None])[:, 0]
    return logprobs
