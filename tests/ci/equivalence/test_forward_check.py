"""Forward checks of real small models: each bug is named, and an error hides no other finding."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.mutation.catalogue import catalogue
from benchmarks.mutation.injection import MutantSubject
from benchmarks.mutation.precision_mutations import PRECISION_MUTATIONS
from ci.equivalence.judge import Judge
from ci.equivalence.trace_compare import WHOLE_BATCH
from ci.errors import SubjectError, UnsupportedError
from ci.evidence import FINGERPRINT
from ci.records import to_json
from ci.subjects.base import ConvertRequest, TraceRequest, TraceResult
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.equivalence.verdict import Verdict
    from ci.models import Policy

BUGS = {mutation.name: mutation for mutation in catalogue()}


def check(experiment: Experiment, name: str, *, dtype: str = "float32", path: Path | None = None) -> Verdict:
    subject = MutantSubject(BUGS[name])
    converted = path or experiment.converted
    if not subject.mutation.patches:
        converted = experiment.workdir / "wrong"
        shutil.rmtree(converted, ignore_errors=True)
        subject.convert(ConvertRequest(str(experiment.source), str(converted), experiment.tiny_model.model_type))
    judge = experiment.judge(subject, converted)
    judge.check_forward(dtype="float32", variant={})
    return judge.check_forward(dtype="float32" if dtype == "float32" else "model", variant={})


@pytest.mark.parametrize(
    ("name", "layer", "operation", "component", "words"),
    [
        ("gate and up swapped", 2, "MLP", "conversion", "it holds model.layers.2.mlp.up_proj.weight"),
        ("RoPE base times 1.5", 0, "query", "conversion", "rope theta is 15000.0"),
        ("norm ignores epsilon", 0, "norm before attention", "kernel", "epsilon"),
        ("head rows shifted by one", None, "output head", "conversion", "rows of the head"),
        ("one logit is NaN", None, "output head", "kernel", "logits is nan"),
    ],
)
def test_a_planted_bug_is_named(
    dense: Experiment, name: str, layer: int | None, operation: str, component: str, words: str
) -> None:
    verdict = check(dense, name)
    assert not verdict.passed
    assert (verdict.layer, verdict.operation, verdict.component) == (layer, operation, component)
    first = f"layer {layer}, {operation} [{component}]: " if layer is not None else f"{operation} [{component}]: "
    assert verdict.diagnosis.startswith(first)
    assert words in verdict.diagnosis
    assert "\n" not in verdict.diagnosis


def test_what_only_low_precision_shows_is_called_a_cast(dense: Experiment) -> None:
    verdict = check(dense, "RoPE tables computed in low precision", dtype="model")
    assert not verdict.passed
    assert verdict.component == "kernel"
    assert "bfloat16 only" in verdict.diagnosis


def test_what_float32_shows_too_is_not_called_a_cast(dense: Experiment) -> None:
    verdict = check(dense, "gate and up swapped", dtype="model")
    assert (verdict.passed, verdict.component, verdict.layer) == (False, "conversion", 2)
    assert "only" not in verdict.diagnosis


def test_experts_are_named(moe: Experiment) -> None:
    verdict = check(moe, "one expert lost")
    assert "only tokens of expert 5" in verdict.diagnosis
    assert verdict.coverage["experts"] == "each of 6 in every layer received a token"
    assert len(verdict.routing) > 0


def test_without_a_cross_check_the_converted_checkpoint_itself_is_the_evidence(dense: Experiment) -> None:
    bugs = {"key and value swapped": "conversion", "softmax scaled by 1/sqrt(hidden)": "kernel"}
    for name, component in bugs.items():
        subject = MutantSubject(BUGS[name])
        converted = dense.workdir / "alone"
        shutil.rmtree(converted, ignore_errors=True)
        subject.convert(ConvertRequest(str(dense.source), str(converted), "llama"))
        judge = replace(dense.judge(subject, converted), cross_check=None)
        assert judge.check_forward(dtype="float32", variant={}).component == component


def test_the_reference_beside_the_subject_tells_conversion_and_kernel_apart(dense: Experiment) -> None:
    wrong = dense.workdir / "faulty"
    MutantSubject(BUGS["gate and up swapped"]).convert(
        ConvertRequest(str(dense.source), str(wrong), dense.tiny_model.model_type)
    )
    kernel = MutantSubject(BUGS["norm ignores epsilon"])
    for subject, path, component, because in (
        (
            kernel,
            dense.converted,
            "kernel",
            "the reference's forward over the same converted checkpoint equals",
        ),
        (ReferenceSubject(), wrong, "conversion", "decoder.2.mlp.layer_1.weight does not hold model.layers.2.mlp.gate"),
        (kernel, wrong, "conversion and kernel", "decoder.2.mlp.layer_1.weight does not hold model.layers.2.mlp.gate_"),
    ):
        verdict = dense.judge(subject, path).check_forward(dtype="float32", variant={})
        assert verdict.component == component
        assert f"[{component}]" in verdict.diagnosis
        assert because in verdict.diagnosis


def test_in_float32_each_block_is_also_compared_alone(dense: Experiment) -> None:
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_forward(dtype="float32", variant={})
    assert {measure.case for measure in verdict.measures} > {"batch, block by block"}


class VariantIgnorer(ReferenceSubject):
    """Runs its default whatever is asked for, as Fast-LLM's dropless does where Triton is missing."""

    def trace(self, request: TraceRequest) -> TraceResult:
        return super().trace(replace(request, variant={}))


def test_a_variant_that_did_not_run_is_never_a_pass(moe: Experiment) -> None:
    verdict = moe.judge(VariantIgnorer(), moe.converted).check_forward(dtype="float32", variant={"moe": "dropless"})
    assert not verdict.passed
    assert verdict.failure_class == "variant_did_not_run"
    assert verdict.diagnosis == "variant did not run (moe: looped ran instead)"


class WithoutContext(ReferenceSubject):
    """Says truly that it cannot capture the attention's context."""

    def trace(self, request: TraceRequest) -> TraceResult:
        result = super().trace(request)
        names = {scope: [n for n in told if not n.endswith("context")] for scope, told in result.names.items()}
        hidden = tuple(n for told in result.names.values() for n in told if n.endswith("context"))
        less = replace(result, names={scope: tuple(kept) for scope, kept in names.items()}, not_captured=hidden)
        (Path(request.output) / "trace.json").write_text(to_json(less), encoding="utf-8")
        return less


def test_what_was_not_compared_is_in_a_verdict_that_passed(dense: Experiment) -> None:
    verdict = dense.judge(WithoutContext(), dense.converted).check_forward(dtype="float32", variant={})
    assert verdict.passed, verdict.diagnosis
    assert verdict.coverage["captures"] == "not covered: 4 tensors are not captured (attention)"


def test_two_bugs_in_two_layers_are_both_named(dense: Experiment) -> None:
    converted = dense.workdir / "two bugs"
    shutil.copytree(dense.converted, converted)
    file = next(converted.glob("*.safetensors"))
    weights = load_file(file)
    weights["decoder.0.mlp.layer_2.weight/weights"] *= 1.5
    weights["decoder.2.mixer.query.weight/weights"] = weights["decoder.2.mixer.query.weight/weights"].flip(0)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    verdict = dense.judge(ReferenceSubject(), converted).check_forward(dtype="float32", variant={})
    assert verdict.diagnosis.startswith("layer 0, MLP [conversion]: scaled by 1.5: a constant factor")
    assert verdict.diagnosis.endswith("; also wrong on right input: query in layer 2")
    assert (verdict.layer, verdict.tensor) == (0, "decoder.0.mlp")
    curve = next(note for note in verdict.notes if note.startswith("error over floor by layer: "))
    before, after = (float(x) for x in curve.removeprefix("error over floor by layer: ").split()[:2])
    assert before < 10 < after


class SilentlyIncomplete(ReferenceSubject):
    """Captures block outputs only, and does not say that the rest is missing."""

    def trace(self, request: TraceRequest) -> TraceResult:
        return super().trace(replace(request, capture="blocks"))


def test_a_capture_that_is_missing_without_a_word_fails(dense: Experiment) -> None:
    verdict = dense.judge(SilentlyIncomplete(), dense.converted).check_forward(dtype="float32", variant={})
    assert (verdict.passed, verdict.failure_class, verdict.component) == (False, "missing_tensor", "")
    assert verdict.diagnosis == ("layer 0, norm before attention: decoder.0.norm_1 is missing from the subject's trace")


class FailsOnOneRow(MutantSubject):
    """Has a bug, and fails where the batch has one row."""

    def trace(self, request: TraceRequest) -> TraceResult:
        if len(load_file(request.inputs)["input_ids"]) == 1:
            raise UnsupportedError("no batch of one row")
        return super().trace(request)


def test_a_later_failure_does_not_hide_what_is_wrong(dense: Experiment) -> None:
    wrong = FailsOnOneRow(BUGS["norm ignores epsilon"])
    verdict = dense.judge(wrong, dense.converted).check_forward(dtype="float32", variant={})
    assert verdict.failure_class == "numeric_mismatch"
    assert "epsilon" in verdict.diagnosis
    assert verdict.diagnosis.endswith("; then the forward pass of 'alone', 'long' failed: no batch of one row")


def test_a_failure_of_one_input_leaves_the_others_judged(dense: Experiment) -> None:
    judge = dense.judge(FailsOnOneRow(BUGS["norm ignores epsilon"]), dense.converted)
    verdict = judge.check_forward(dtype="model", variant={})  # where the bug is within the noise
    assert (verdict.passed, verdict.failure_class) == (False, "unsupported")
    assert verdict.diagnosis == "the forward pass of 'alone', 'long' failed: no batch of one row; right: batch"
    assert verdict.coverage["failed inputs"] == "not covered: alone, long"
    assert verdict.worst is not None
    assert {measure.passed for measure in verdict.measures} == {True}


class FailsOnBatches(ReferenceSubject):
    """Fails, or hangs until it is killed, where the batch has several rows."""

    def __init__(self, error: SubjectError) -> None:
        super().__init__()
        self.error = error

    def trace(self, request: TraceRequest) -> TraceResult:
        if len(load_file(request.inputs)["input_ids"]) > 1:
            raise self.error
        return super().trace(request)


def test_a_failure_of_the_first_input_leaves_the_others_judged(dense: Experiment) -> None:
    judge = dense.judge(FailsOnBatches(SubjectCrashError("it died")), dense.converted)
    verdict = judge.check_forward(dtype="float32", variant={})
    assert (verdict.passed, verdict.failure_class) == (False, "crash")
    assert verdict.diagnosis == "the forward pass of 'batch' failed: it died; right: alone, long"
    assert FINGERPRINT not in verdict.figures
    assert verdict.measures


def test_after_a_timeout_no_other_input_runs(dense: Experiment) -> None:
    judge = dense.judge(FailsOnBatches(SubjectTimeoutError("killed")), dense.converted)
    with pytest.raises(SubjectTimeoutError, match="killed"):
        judge.check_forward(dtype="float32", variant={})  # so nothing was compared


class FailsAlone(HuggingFace):
    """Hugging Face's side, of which one input's forward pass fails."""

    def trace(self, request: TraceRequest) -> TraceResult:
        if "alone" in request.inputs or "long" in request.inputs:
            raise SubjectError("Hugging Face, forward fails")
        return super().trace(request)


def test_an_input_that_hugging_face_cannot_run_leaves_the_others_judged(dense: Experiment, tmp_path: Path) -> None:
    batch, alone = dense.reference.cases[:2]
    with FailsAlone() as side:
        inputs = replace(dense.judge(ReferenceSubject(), dense.converted).inputs, workdir=str(tmp_path))
        judge = Judge(inputs, ReferenceSubject(), side)
        judge.reference._cases = (batch, replace(alone, part_of="", part=WHOLE_BATCH))
        verdict = judge.check_forward(dtype="float32", variant={})
    assert (verdict.passed, verdict.failure_class) == (False, "other")
    assert verdict.diagnosis == "the forward pass of 'alone' failed: Hugging Face, forward fails; right: batch"


@pytest.mark.parametrize(("policy", "failure"), [("warn", None), ("strict", "precision")])
def test_a_norm_in_low_precision_is_a_warning_or_red(dense: Experiment, policy: Policy, failure: str | None) -> None:
    mutation = next(bug for bug in PRECISION_MUTATIONS if bug.name == "norm in low precision throughout")
    judge = dense.judge(MutantSubject(mutation), dense.converted)
    judge.inputs = replace(judge.inputs, model=replace(dense.model, precision_policy=policy))
    assert judge.check_forward(dtype="float32", variant={}).warnings == ()
    verdict = judge.check_forward(dtype="model", variant={})
    assert (verdict.passed, verdict.failure_class) == (failure is None, failure)
    assert verdict.warnings[0].startswith("precision: norm_1 in layer 0")
    assert "statistics in bfloat16?" in verdict.warnings[0]
    if failure:
        assert (verdict.layer, verdict.tensor, verdict.component) == (0, "decoder.0.norm_1", "kernel")
        assert verdict.diagnosis.startswith("precision: norm_1 in layer 0")


@pytest.mark.parametrize("variant", [{}, {"attention": "sdpa"}, {"attention": "blockwise"}])
def test_a_right_forward_has_no_precision_finding(dense: Experiment, variant: dict[str, str]) -> None:
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_forward(dtype="model", variant=variant)
    assert verdict.passed
    assert verdict.warnings == ()
    assert verdict.figures["bfloat16.precision_operations"] == 21
    assert -1 <= verdict.figures["bfloat16.error_correlation"] <= 1
    assert verdict.coverage["precision"].startswith("norm_1, mixer.context, norm_2, final_norm in float64")


def test_a_wrong_function_is_not_called_imprecise(dense: Experiment) -> None:
    verdict = check(dense, "gate and up swapped", dtype="model")
    assert not verdict.passed
    assert verdict.warnings == ()
