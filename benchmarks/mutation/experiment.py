"""One tiny model with each bug in turn: does the bug count, and is it caught, located and attributed correctly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file

from benchmarks.mutation.deep_mutations import CONTEXT
from benchmarks.mutation.equal_rewrites import EXACT_IN_LOW_PRECISION
from benchmarks.mutation.hf_injection import HFInjection, MutantHuggingFace, transformers_restored
from benchmarks.mutation.injection import MutantSubject, Mutation
from benchmarks.mutation.published_rules import GREEDY, GREEDY_PROMPT, LONG, PROMPTS, RULES, RuleTraces
from benchmarks.mutation.tiny_models import TinyModel, write_tiny_model
from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.judge import Judge
from ci.equivalence.round_trip import compare_checkpoints
from ci.equivalence.trace_compare import compare_logits
from ci.equivalence.training_reference import TrainingReference
from ci.errors import HubTestsError
from ci.models import HubModel, TestParams
from ci.subjects.base import ConvertRequest, DType, ExportRequest, Subject, TraceRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.directories import read_fast_llm
from ci.subjects.reference.subject import ReferenceSubject
from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.deep_mutations import DeepBug
    from ci.equivalence.verdict import Verdict

ROUND_TRIP = "bit-exact round trip"


@dataclass(frozen=True)
class MutationResult:
    """What happened to one bug in one tiny model.

    `equivalent`: the logits of Hugging Face do not change, so that the bug does not count; `shown_by`: the model that
    was asked. `attributed_to`: the component that the verdict names. `rules`: whether each published rule would have
    caught the bug. `caught_deep`: what neither tolerance caught was caught by its check of `--deep`.
    `precision_warnings`: how many warnings of the verdicts are about precision.
    """

    tiny_model: str
    mutation: str
    bug_class: str
    component: str
    equivalent: bool
    shown_by: str = "Hugging Face"
    caught_float32: bool = False
    caught_native_dtype: bool = False
    caught_deep: bool = False
    precision_warnings: int = 0
    located: bool = False
    attributed_to: str = ""
    diagnosis: str = ""
    rules: Mapping[str, bool] = field(default_factory=dict)

    @property
    def caught(self) -> bool:
        """Whether either tolerance caught the bug."""
        return self.caught_float32 or self.caught_native_dtype

    @property
    def caught_by_any(self) -> bool:
        """Whether a tolerance, or the check of `--deep`, caught the bug."""
        return self.caught or self.caught_deep


def extend_context(tiny_model: TinyModel) -> TinyModel:
    """Return the tiny model with a context in which bugs of far positions can exist; it keeps its name."""
    return replace(tiny_model, config_changes={**tiny_model.config_changes, "max_position_embeddings": CONTEXT})


def count_precision_warnings(*verdicts: Verdict | None) -> int:
    """Count the warnings of verdicts that are about precision."""
    return sum(text.startswith("precision") for verdict in verdicts if verdict for text in verdict.warnings)


class Experiment:
    """A tiny model on disk, its reference run of Hugging Face, and one bug after the other injected into it."""

    def __init__(self, tiny_model: TinyModel, workdir: Path, *, seed: int = 0, device: str = "cpu") -> None:
        """Write the tiny model and convert it correctly."""
        self.tiny_model, self.workdir, self.device = tiny_model, workdir, device
        self.source = write_tiny_model(tiny_model, workdir / "model", seed=seed)
        self.converted = workdir / "converted"
        ReferenceSubject().convert(ConvertRequest(str(self.source), str(self.converted), tiny_model.model_type))
        model_id = f"tiny/{tiny_model.name}"
        self.model = HubModel(tiny_model.name, model_id, tiny_model.model_type, test_params=TestParams())
        self.hugging_face = HuggingFace()
        self.reference = ReferenceRun(
            self.source, self.model.test_params, self.hugging_face, device, workdir / "reference", seed=seed
        )
        formats = (tiny_model.model_type, "gpt")
        self.training = TrainingReference(self.reference, formats, workdir / "training")
        self._hf_traces: tuple[TraceReader, TraceReader] | None = None

    def judge(self, subject: Subject, converted: Path, *, explain: bool = True) -> Judge:
        """Return a judge of `subject` over the directory `converted`, with the correct reference as cross-check."""
        inputs = ComparisonInputs(
            self.model, str(self.source), str(converted), self.device, str(self.workdir / "judge")
        )
        return Judge(
            inputs,
            subject,
            self.hugging_face,
            ReferenceSubject(),
            shared_reference=self.reference,
            explain=explain,
            training=self.training,
        )

    def judge_correct_conversion(self) -> Iterator[tuple[str, str, Verdict]]:
        """Yield dtype, variant and verdict of the correct conversion, for each variant of the reference."""
        subject = ReferenceSubject()
        judge = self.judge(subject, self.converted)
        dtypes: tuple[Literal["float32", "model"], ...] = ("float32", "model")
        for dtype in dtypes[: 1 if self.tiny_model.dtype == "float32" else 2]:
            yield dtype, "default", judge.check_forward(dtype=dtype, variant={})
            for offered in subject.variants(str(self.converted)):
                if not offered.default:
                    verdict = judge.check_forward(dtype=dtype, variant={offered.axis: offered.name})
                    yield dtype, f"{offered.axis}={offered.name}", verdict

    def find_rule_false_alarms(self) -> dict[str, int]:
        """Return 1 for each published rule that rejects the correct conversion, 0 for the others."""
        traces = self.trace_both(ReferenceSubject(), self.converted, {})
        return {rule.name: int(not rule.passes(traces)) for rule in RULES}

    def run_mutation(self, mutation: Mutation) -> MutationResult:
        """Inject one bug, judge the mutant, and return what happened."""
        subject, converted = MutantSubject(mutation), self.workdir / "mutant"
        shutil.rmtree(converted, ignore_errors=True)
        subject.convert(ConvertRequest(str(self.source), str(converted), self.tiny_model.model_type))
        changed, shown_by = self._changes_hugging_face(mutation, converted)
        facts: dict[str, Any] = {"tiny_model": self.tiny_model.name, "mutation": mutation.name}
        facts |= {"bug_class": mutation.bug_class, "component": mutation.component, "shown_by": shown_by}
        if not changed:
            return MutationResult(**facts, equivalent=True)
        first, second = self._judge_mutant(mutation, subject, converted)
        red = next((verdict for verdict in (first, second) if verdict and not verdict.passed), None)
        return MutationResult(
            **facts,
            equivalent=False,
            caught_float32=not first.passed,
            caught_native_dtype=second is not None and not second.passed,
            located=red is not None and mutation.matches_location(red.tensor),
            attributed_to=red.component if red else "",
            diagnosis=red.diagnosis if red else "",
            rules=self._apply_rules(mutation, subject, converted),
            precision_warnings=count_precision_warnings(first, second),
        )

    def run_deep_bug(self, bug: DeepBug) -> MutationResult:
        """Inject a bug of `--deep`; its check runs only if the default tests pass.

        A bug of far positions needs a tiny model with that context.
        """
        mutation, subject, converted = bug.mutation, MutantSubject(bug.mutation), self.workdir / "mutant"
        for directory in (converted, self.workdir / "mutant-exported"):
            shutil.rmtree(directory, ignore_errors=True)
        subject.convert(ConvertRequest(str(self.source), str(converted), self.tiny_model.model_type))
        first, second = self._judge_mutant(mutation, subject, converted)
        early = [verdict for verdict in (first, second) if verdict and not verdict.passed]
        late = [] if early else [v for v in self._check_deep(bug, subject, converted) if not v.passed]
        red = next(iter([*early, *late]), None)
        return MutationResult(
            *(self.tiny_model.name, mutation.name, mutation.bug_class, mutation.component),
            equivalent=False,
            shown_by=bug.check,
            caught_float32=not first.passed,
            caught_native_dtype=second is not None and not second.passed,
            caught_deep=bool(late),
            located=red is not None and bug.is_named(red.diagnosis),
            attributed_to=red.component if red else "",
            diagnosis=red.diagnosis if red else "",
            rules=self._apply_rules(mutation, subject, converted),
            precision_warnings=count_precision_warnings(first, second),
        )

    def _check_deep(self, bug: DeepBug, subject: Subject, converted: Path) -> tuple[Verdict, ...]:
        judge = self.judge(subject, converted)
        if bug.check == "layer order":
            return judge.check_layer_order()
        return judge.check_positions() if bug.check == "positions" else (judge.check_config_sensitivity(),)

    def judge_equal_rewrite(self, rewrite: Mutation) -> Iterator[tuple[str, Verdict]]:
        """Yield dtype and verdict of a conversion that computes the same in another way.

        It is judged in low precision only where no weight is rounded anew: elsewhere it is another model there.
        """
        subject, converted = MutantSubject(rewrite), self.workdir / "rewritten"
        shutil.rmtree(converted, ignore_errors=True)
        subject.convert(ConvertRequest(str(self.source), str(converted), self.tiny_model.model_type))
        judge = self.judge(subject, converted, explain=False)
        yield "float32", judge.check_forward(dtype="float32", variant={})
        if rewrite.name in EXACT_IN_LOW_PRECISION and self.tiny_model.dtype != "float32":
            yield "model", judge.check_forward(dtype="model", variant={})

    def _judge_mutant(self, mutation: Mutation, subject: Subject, converted: Path) -> tuple[Verdict, Verdict | None]:
        """Apply the float32 tolerance, then the native-dtype tolerance.

        The second is asked for an explanation only if the first passed.
        """
        first = self.judge(subject, converted).check_forward(dtype="float32", variant=mutation.variant)
        if self.tiny_model.dtype == "float32":
            return first, None
        second = self.judge(subject, converted, explain=first.passed)
        if first.passed:
            second.check_forward(dtype="float32", variant=mutation.variant)  # whether float32 passes is part of it
        return first, second.check_forward(dtype="model", variant=mutation.variant)

    # Does the bug count: do the logits of Hugging Face change?

    def _changes_hugging_face(self, mutation: Mutation, converted: Path) -> tuple[bool, str]:
        if mutation.low_precision and self.tiny_model.dtype == "float32":
            return False, "Hugging Face"
        dtype: DType = self.tiny_model.dtype if mutation.low_precision else "float64"
        if mutation.patches:
            injection = HFInjection(mutation, read_fast_llm(converted).architecture)
            with transformers_restored():
                return self.changes_logits(MutantHuggingFace(injection=injection), self.source, dtype), "Hugging Face"
        exported = self.workdir / "mutant-exported"
        shutil.rmtree(exported, ignore_errors=True)
        request = ExportRequest(str(converted), str(exported), self.tiny_model.model_type)
        with suppress(HubTestsError):
            ReferenceSubject().export(request)
            return self.changes_logits(HuggingFace(), exported, dtype), "Hugging Face"
        return self.changes_logits(ReferenceSubject(), converted, dtype), "reference"

    def changes_logits(self, runner: Any, checkpoint: Path, dtype: DType) -> bool:
        """Return whether the logits of some input change by more than Hugging Face's own noise.

        In float64: by more than the float32 noise floor, without a margin, so that a bug just above the noise counts.
        In low precision: by more than the native-dtype tolerance, because such a bug changes the noise itself.
        """
        return any(
            self._changes_logits_of(runner, checkpoint, dtype, case)
            for case in self.reference.cases
            if not case.part_of
        )

    def _changes_logits_of(self, runner: Any, checkpoint: Path, dtype: DType, case: Any) -> bool:
        output = self.workdir / "changed-logits"
        shutil.rmtree(output, ignore_errors=True)
        inputs = str(self.reference.runner.write_inputs(case))
        is_hugging_face = isinstance(runner, HuggingFace)
        variant = {"batch": "together"} if is_hugging_face else {}
        runner.trace(TraceRequest(str(checkpoint), inputs, str(output), dtype, self.device, variant))
        tolerances = self.reference.get_tolerances(case, "float32" if dtype == "float64" else dtype)
        allowed = tolerances.get_floor("logits").error if dtype == "float64" else tolerances.get_error_limit("logits")
        return not compare_logits(TraceReader(output), self.reference.get_expected_trace(case), case.keep) <= allowed

    # The published rules of other projects on the same bug.

    def _apply_rules(self, mutation: Mutation, subject: Subject, converted: Path) -> dict[str, bool]:
        traces = self.trace_both(subject, converted, mutation.variant)
        caught = {rule.name: not rule.passes(traces) for rule in RULES}
        return {**caught, ROUND_TRIP: mutation.lossy and self._changed_by_round_trip(converted)}

    def _changed_by_round_trip(self, converted: Path) -> bool:
        exported = self.workdir / "mutant-exported"
        tied = bool(self.tiny_model.config_changes.get("tie_word_embeddings"))
        return exported.is_dir() and any(compare_checkpoints(self.source, exported, tied=tied)) and converted.is_dir()

    def trace_both(self, subject: Subject, converted: Path, variant: Mapping[str, str]) -> RuleTraces:
        """Return both sides' traces for the published rules. Those of Hugging Face are made once."""
        if self._hf_traces is None:
            self._hf_traces = self._trace_rules(self.hugging_face, self.source, {}, "theirs")
        long, greedy = self._trace_rules(subject, converted, dict(variant), "ours")
        return RuleTraces((self._hf_traces[0], long), (self._hf_traces[1], greedy))

    def _trace_rules(
        self, runner: Any, checkpoint: Path, variant: dict[str, str], name: str
    ) -> tuple[TraceReader, TraceReader]:
        def run(kind: str, dtype: DType) -> TraceReader:
            output = self.workdir / f"{name}-{kind}"
            shutil.rmtree(output, ignore_errors=True)
            inputs = str(self._rule_inputs(kind))
            runner.trace(TraceRequest(str(checkpoint), inputs, str(output), dtype, self.device, variant))
            return TraceReader(output)

        return run("long", "float32"), run("greedy", "bfloat16")

    def _rule_inputs(self, kind: str) -> Path:
        file = self.workdir / f"{kind}.safetensors"
        if not file.exists():
            generator = torch.Generator().manual_seed(3)
            vocabulary = self.reference.requirements.vocabulary
            ids = torch.randint(0, vocabulary, (PROMPTS, LONG), generator=generator)
            save_file({"input_ids": ids if kind == "long" else self._continue_greedily(ids[:, :GREEDY_PROMPT])}, file)
        return file

    def _continue_greedily(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the prompts with Hugging Face's greedy continuation in bfloat16."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(str(self.source), dtype=torch.bfloat16)
        with torch.inference_mode():
            for _ in range(GREEDY):
                best = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
                ids = torch.cat([ids, best], dim=1)
        return ids.clone()
