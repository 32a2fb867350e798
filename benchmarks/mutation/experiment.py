"""One specimen under every planted bug: is the bug real, is it caught, is it located, is the right half named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file

from benchmarks.mutation.hf_injection import MutantHuggingFace, Recipient, undone
from benchmarks.mutation.injection import MutantSubject, Mutation
from benchmarks.mutation.rules import GREEDY, GREEDY_PROMPT, LONG, PROMPTS, RULES, Sides
from benchmarks.mutation.tiny_models import Specimen, write
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.judge import ComparisonInputs, Judge
from ci.equivalence.round_trip import compare_checkpoints
from ci.equivalence.trace_compare import compare_logits
from ci.errors import HubTestsError
from ci.models import HubModel, TestParams
from ci.subjects.base import ConvertRequest, DType, ExportRequest, Subject, TraceRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.subject import ReferenceSubject
from ci.subjects.tracefile import TraceReader

if TYPE_CHECKING:
    from pathlib import Path

    from ci.equivalence.verdict import Verdict

ROUND_TRIP = "bit-exact round trip"


@dataclass(frozen=True)
class Outcome:
    """One planted bug in one specimen. `equivalent`: Hugging Face's own answer does not move, so it does not count.

    `rules` says of each published rule whether it would have caught the bug; `witness` who showed that it is one.
    """

    specimen: str
    mutation: str
    bug_class: str
    half: str
    equivalent: bool
    witness: str = "Hugging Face"
    gate_a: bool = False
    gate_b: bool = False
    located: bool = False
    half_named: str = ""
    said: str = ""
    rules: Mapping[str, bool] = field(default_factory=dict)

    @property
    def caught(self) -> bool:
        """By either gate."""
        return self.gate_a or self.gate_b


class Bench:
    """A specimen on disk with its truth measured once; every bug is planted in it in turn."""

    def __init__(self, specimen: Specimen, workdir: Path, *, seed: int = 0, device: str = "cpu") -> None:
        """Write the specimen and convert it rightly."""
        self.specimen, self.workdir, self.device = specimen, workdir, device
        self.source = write(specimen, workdir / "model", seed=seed)
        self.right = workdir / "right"
        ReferenceSubject().convert(ConvertRequest(str(self.source), str(self.right), specimen.model_type))
        model = HubModel(specimen.name, f"specimen/{specimen.name}", specimen.model_type, test_params=TestParams())
        self.model = model
        self.hugging_face = HuggingFace()
        self.truth = ReferenceRun(
            self.source, model.test_params, self.hugging_face, device, workdir / "truth", seed=seed
        )
        self._theirs: tuple[TraceReader, TraceReader] | None = None

    def judge(self, subject: Subject, converted: Path, *, explain: bool = True) -> Judge:
        """A judge of `subject` over the directory `converted`, with the clean reference as third opinion."""
        workdir = str(self.workdir / "judge")
        inputs = ComparisonInputs(self.model, str(self.source), str(converted), self.device, workdir)
        return Judge(inputs, subject, self.hugging_face, ReferenceSubject(), self.truth, explain)

    def clean_verdicts(self) -> Iterator[tuple[str, str, Verdict]]:
        """Dtype, variant and verdict of the right conversion, in every variant that the reference offers."""
        subject = ReferenceSubject()
        judge = self.judge(subject, self.right)
        dtypes: tuple[Literal["float32", "model"], ...] = ("float32", "model")
        for dtype in dtypes[: 1 if self.specimen.dtype == "float32" else 2]:
            yield dtype, "default", judge.check_forward(dtype=dtype, variant={})
            for offered in subject.variants(str(self.right)):
                if not offered.default:
                    verdict = judge.check_forward(dtype=dtype, variant={offered.axis: offered.name})
                    yield dtype, f"{offered.axis}={offered.name}", verdict

    def rule_alarms(self) -> dict[str, int]:
        """Published rule → 1 where it fails the right conversion."""
        sides = self.sides(ReferenceSubject(), self.right, {})
        return {rule.name: int(not rule.passes(sides)) for rule in RULES}

    def outcome(self, mutation: Mutation) -> Outcome:
        """Plant one bug, and see."""
        subject, converted = MutantSubject(mutation), self.workdir / "mutant"
        shutil.rmtree(converted, ignore_errors=True)
        subject.convert(ConvertRequest(str(self.source), str(converted), self.specimen.model_type))
        moved, witness = self._moves(mutation, converted)
        facts: dict[str, Any] = {"specimen": self.specimen.name, "mutation": mutation.name}
        facts |= {"bug_class": mutation.bug_class, "half": mutation.half, "witness": witness}
        if not moved:
            return Outcome(**facts, equivalent=True)
        first, second = self._verdicts(mutation, subject, converted)
        red = next((verdict for verdict in (first, second) if verdict and not verdict.passed), None)
        return Outcome(
            **facts,
            equivalent=False,
            gate_a=not first.passed,
            gate_b=second is not None and not second.passed,
            located=red is not None and mutation.is_at(red.tensor),
            half_named=red.half if red else "",
            said=red.diagnosis if red else "",
            rules=self._rules(mutation, subject, converted),
        )

    def _verdicts(self, mutation: Mutation, subject: Subject, converted: Path) -> tuple[Verdict, Verdict | None]:
        """Gate A; then Gate B, which is asked to explain only what Gate A let pass."""
        first = self.judge(subject, converted).check_forward(dtype="float32", variant=mutation.variant)
        if self.specimen.dtype == "float32":
            return first, None
        second = self.judge(subject, converted, explain=first.passed)
        if first.passed:
            second.check_forward(dtype="float32", variant=mutation.variant)  # so that it knows that float32 is right
        return first, second.check_forward(dtype="model", variant=mutation.variant)

    # Is it a bug at all: does Hugging Face's own answer move?

    def _moves(self, mutation: Mutation, converted: Path) -> tuple[bool, str]:
        if mutation.low_precision and self.specimen.dtype == "float32":
            return False, "Hugging Face"
        dtype: DType = self.specimen.dtype if mutation.low_precision else "float64"
        if mutation.patches:
            recipient = Recipient(mutation, read_fast_llm(converted).architecture)
            with undone():
                return self.answer_moves(MutantHuggingFace(recipient=recipient), self.source, dtype), "Hugging Face"
        exported = self.workdir / "mutant-exported"
        shutil.rmtree(exported, ignore_errors=True)
        request = ExportRequest(str(converted), str(exported), self.specimen.model_type)
        with suppress(HubTestsError):
            ReferenceSubject().export(request)
            return self.answer_moves(HuggingFace(), exported, dtype), "Hugging Face"
        return self.answer_moves(ReferenceSubject(), converted, dtype), "reference"

    def answer_moves(self, who: Any, checkpoint: Path, dtype: DType) -> bool:
        """Whether the logits of some input move by more than the reference's own noise.

        In float64, beyond Hugging Face's float32 noise: no margin, so that a bug just above the noise counts. In low
        precision beyond Gate B's tolerance, because there the noise itself is what the bug changes.
        """
        return any(self._logits_move(who, checkpoint, dtype, case) for case in self.truth.cases if not case.part_of)

    def _logits_move(self, who: Any, checkpoint: Path, dtype: DType, case: Any) -> bool:
        output = self.workdir / "moves"
        shutil.rmtree(output, ignore_errors=True)
        inputs = str(self.truth.write_inputs(case))
        theirs = isinstance(who, HuggingFace)
        variant = {"batch": "together"} if theirs else {}
        who.trace(TraceRequest(str(checkpoint), inputs, str(output), dtype, self.device, variant))
        limits = self.truth.get_tolerances(case, "float32" if dtype == "float64" else dtype)
        allowed = limits.get_floor("logits").error if dtype == "float64" else limits.get_error_limit("logits")
        return not compare_logits(TraceReader(output), self.truth.get_expected_trace(case), case.keep) <= allowed

    # What the published rules would have said.

    def _rules(self, mutation: Mutation, subject: Subject, converted: Path) -> dict[str, bool]:
        sides = self.sides(subject, converted, mutation.variant)
        caught = {rule.name: not rule.passes(sides) for rule in RULES}
        return {**caught, ROUND_TRIP: mutation.lossy and self._changed_on_the_way_back(converted)}

    def _changed_on_the_way_back(self, converted: Path) -> bool:
        exported = self.workdir / "mutant-exported"
        tied = bool(self.specimen.changes.get("tie_word_embeddings"))
        return exported.is_dir() and any(compare_checkpoints(self.source, exported, tied=tied)) and converted.is_dir()

    def sides(self, subject: Subject, converted: Path, variant: Mapping[str, str]) -> Sides:
        """Both sides' traces for the published rules; Hugging Face's are run once."""
        if self._theirs is None:
            self._theirs = self._trace_rules(self.hugging_face, self.source, {}, "theirs")
        long, greedy = self._trace_rules(subject, converted, dict(variant), "ours")
        return Sides((self._theirs[0], long), (self._theirs[1], greedy))

    def _trace_rules(
        self, who: Any, checkpoint: Path, variant: dict[str, str], name: str
    ) -> tuple[TraceReader, TraceReader]:
        def traced(kind: str, dtype: DType) -> TraceReader:
            output = self.workdir / f"{name}-{kind}"
            shutil.rmtree(output, ignore_errors=True)
            inputs = str(self._rule_inputs(kind))
            who.trace(TraceRequest(str(checkpoint), inputs, str(output), dtype, self.device, variant))
            return TraceReader(output)

        return traced("long", "float32"), traced("greedy", "bfloat16")

    def _rule_inputs(self, kind: str) -> Path:
        file = self.workdir / f"{kind}.safetensors"
        if not file.exists():
            generator = torch.Generator().manual_seed(3)
            vocabulary = self.truth.requirements.vocabulary
            ids = torch.randint(0, vocabulary, (PROMPTS, LONG), generator=generator)
            save_file({"input_ids": ids if kind == "long" else self._continued(ids[:, :GREEDY_PROMPT])}, file)
        return file

    def _continued(self, ids: torch.Tensor) -> torch.Tensor:
        """Prompts and Hugging Face's own greedy continuation in bfloat16."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(str(self.source), dtype=torch.bfloat16)
        with torch.inference_mode():
            for _ in range(GREEDY):
                best = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
                ids = torch.cat([ids, best], dim=1)
        return ids.clone()
