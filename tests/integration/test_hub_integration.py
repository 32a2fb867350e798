"""The hub suite: real Hub models are truncated, converted, and held against Hugging Face's forward pass.

    pytest tests/integration --run-extra-slow [-k mixtral]

Each test records one JUnit property, its `ci.evidence.Evidence`: the machine-readable result.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import NotOfferedError, UnsupportedError
from ci.hub.verification import describe_unverified
from ci.layouts import LAYOUT_AXIS
from ci.suite.checkpoint_checks import find_checkpoint_problems, read_published_dtype
from ci.suite.serving import check_served_export, describe_serving
from ci.suite.tests import list_left_out
from ci.suite.training import check_steps, list_conversion_layouts
from ci.suite.unmet_needs import find_need, find_unmet_need
from ci.suite.verdict_evidence import add_verdicts, format_failures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.equivalence.judge import Judge
    from ci.equivalence.verdict import Verdict
    from ci.evidence import Evidence, Step
    from ci.suite.pipeline import ModelPipeline

pytestmark = [pytest.mark.extra_slow, pytest.mark.filterwarnings("default")]
"""A warning of a library says nothing about the subject."""


def test_download_and_truncate(pipeline: ModelPipeline, record: Any) -> None:
    """The kept layers are on disk, config.json says so, and nothing else was touched."""
    with record() as note:
        checkpoint = pipeline.fetch_checkpoint()
        pipeline.import_libraries()
        figures = {
            "bytes_kept": checkpoint.bytes_kept,
            "bytes_fetched": checkpoint.bytes_fetched,
            "requests": checkpoint.requests,
            "fetch_seconds": checkpoint.seconds,
        }
        missed = (f"two layers would have missed {kind}" for kind in checkpoint.kinds_missed)
        unverified = describe_unverified(checkpoint.not_verified_upstream)
        notes = (*checkpoint.notes, *unverified, *missed)
        evidence = pipeline.start_evidence("test_download_and_truncate")
        evidence = replace(evidence, published_dtype=read_published_dtype(checkpoint))
        note(replace(evidence, figures=figures, notes=notes))
        problems = find_checkpoint_problems(checkpoint)
        assert not problems, "; ".join(problems)


def _conclude(note: Any, evidence: Evidence, verdicts: tuple[Verdict, ...]) -> None:
    """Record the verdicts of a test, and fail it where one of them did not pass."""
    note(add_verdicts(evidence, verdicts))
    assert all(verdict.passed for verdict in verdicts), format_failures(verdicts)


def test_conversion(pipeline: ModelPipeline, record: Any, truncated_hf_path: Path) -> None:
    """The subject converts the checkpoint, and its files are there."""
    with record() as note:
        _skip_left_out(pipeline, note, "test_conversion")
        path, result = pipeline.convert()
        figures = {"bytes_written": result.bytes_written, "convert_seconds": result.seconds}
        note(replace(pipeline.start_evidence("test_conversion"), figures=figures))
        missing = [name for name in result.files if not (path / name).is_file()]
        assert result.files, f"{pipeline.run.offer.name} reported no checkpoint files in {path}"
        assert not missing, f"{pipeline.run.offer.name} reported files that are not there: {', '.join(missing)}"
        assert json.loads((truncated_hf_path / "hub-tests.json").read_bytes()), "the source checkpoint was damaged"


def _skip_left_out(pipeline: ModelPipeline, note: Any, test: Step) -> None:
    """Skip a test that the subject's offer leaves out, with the reason."""
    if reason := list_left_out(pipeline.run.offer).get(test):
        evidence = pipeline.start_evidence(test)
        note(replace(evidence, failure_class="variant_did_not_run", diagnosis=f"did not run: {reason}"))
        pytest.skip(f"did not run: {reason}")


def test_forward_equivalence(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """Every captured tensor equals Hugging Face's, in float32 and in the model's dtype."""
    with record() as note:
        verdicts = pipeline.judge().check_forward_in_dtypes({})
        _conclude(note, pipeline.start_evidence("test_forward_equivalence"), verdicts)


def test_moe_implementation(
    pipeline: ModelPipeline, record: Any, fast_llm_path: Path, moe_implementation: tuple[str, str]
) -> None:
    """Each implementation of the mixture of experts equals Hugging Face's, and really ran."""
    _judge_variant(pipeline, record, *moe_implementation)


def test_implementation(
    pipeline: ModelPipeline, record: Any, fast_llm_path: Path, implementation: tuple[str, str]
) -> None:
    """Each implementation on every other axis equals Hugging Face's, and really ran; in a layout, whole steps do."""
    _judge_variant(pipeline, record, *implementation)


def _judge_layout(pipeline: ModelPipeline, record: Any, name: str) -> None:
    variant = f"{LAYOUT_AXIS}={name}"
    with record(variant) as note:
        evidence = pipeline.start_evidence("test_implementation", variant)
        try:
            verdict = pipeline.judge().check_training(name)
        except UnsupportedError as refusal:
            if not (need := find_unmet_need(pipeline.run.subject, variant, refusal)):
                raise
            note(replace(evidence, unmet_need=need, failure_class="variant_did_not_run", diagnosis=str(refusal)))
            pytest.skip(f"variant did not run: {variant} needs {need}")
        _conclude(note, evidence, (verdict,))


def _judge_variant(pipeline: ModelPipeline, record: Any, axis: str, name: str) -> None:
    if axis == LAYOUT_AXIS:
        _judge_layout(pipeline, record, name)
        return
    with record(f"{axis}={name}") as note:
        offered = {(v.axis, v.name): v for v in pipeline.start_subject().variants(str(pipeline.convert()[0]))}
        variant = offered.get((axis, name))
        evidence = pipeline.start_evidence(
            "test_moe_implementation" if axis == "moe" else "test_implementation", f"{axis}={name}"
        )
        if variant is None or variant.needs:
            need = find_need(pipeline, axis, name, variant)
            reason = f"needs {need}" if need else f"{pipeline.run.offer.name} does not offer it for this model"
            did_not_run = replace(evidence, unmet_need=need)
            said = f"{axis}={name} did not run: {reason}"
            note(replace(did_not_run, failure_class="variant_did_not_run", diagnosis=said))
            pytest.skip(f"variant did not run: {axis}={name} {reason}")
        verdicts = pipeline.judge().check_forward_in_dtypes({axis: name})
        _conclude(note, evidence, verdicts)


def test_hub_model_conversion(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """A conversion to the subject and back gives the same bits, and the export still runs."""
    with record() as note:
        _skip_left_out(pipeline, note, "test_hub_model_conversion")
        exported = pipeline.export()
        verdict = pipeline.judge().check_round_trip(str(exported))
        verdict = replace(verdict, coverage={**verdict.coverage, **describe_serving(pipeline.run.options)})
        _conclude(note, pipeline.start_evidence("test_hub_model_conversion"), (verdict,))


@pytest.mark.served
def test_served_export(pipeline: ModelPipeline, record: Any, exported_hf_path: Path) -> None:
    """An inference engine serves the export as it serves the original; without the engine, it did not run."""
    with record() as note:
        _skip_left_out(pipeline, note, "test_served_export")
        evidence = pipeline.start_evidence("test_served_export")
        try:
            verdicts = check_served_export(pipeline)
        except NotOfferedError as said:
            need = pipeline.run.options.consumer or ""
            did_not_run = replace(evidence, failure_class="variant_did_not_run", unmet_need=need)
            note(replace(did_not_run, diagnosis=f"did not run: {said}"))
            pytest.skip(f"did not run: {said}")
        _conclude(note, evidence, verdicts)


@pytest.mark.deep
def test_config_sensitivity(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """A config key that changes Hugging Face's output changes the subject's equally, or is refused."""
    with record() as note:
        verdict = pipeline.judge().check_config_sensitivity()
        _conclude(note, pipeline.start_evidence("test_config_sensitivity"), (verdict,))


@pytest.mark.deep
def test_weight_liveness(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """A changed tensor on disk changes the subject's output as it changes Hugging Face's."""
    with record() as note:
        verdict = pipeline.judge().check_weight_liveness()
        _conclude(note, pipeline.start_evidence("test_weight_liveness"), (verdict,))


@pytest.mark.deep
def test_layer_order(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """Each of twelve layers of a thin synthetic model is in its place."""
    with record() as note:
        verdicts = pipeline.judge().check_layer_order()
        _conclude(note, pipeline.start_evidence("test_layer_order"), verdicts)


@pytest.mark.deep
def test_positions(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """Far positions of a thin synthetic model are right, as far as the context and the memory allow."""
    with record() as note:
        verdicts = pipeline.judge().check_positions()
        _conclude(note, pipeline.start_evidence("test_positions"), verdicts)


@pytest.mark.deep
def test_gradients(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """Each parameter's gradient equals Hugging Face's; where a subject's offer has none, it did not run."""
    with record() as note:
        evidence = pipeline.start_evidence("test_gradients")
        try:
            verdicts = pipeline.judge().check_gradients_of_mixers()
        except NotOfferedError as said:
            note(replace(evidence, failure_class="variant_did_not_run", diagnosis=f"did not run: {said}"))
            pytest.skip(f"did not run: {said}")
        _conclude(note, evidence, verdicts)


@pytest.mark.deep
def test_training_step(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """Whole optimizer steps in one process equal Hugging Face's, with experts also their balancing loss."""
    with record() as note:
        _judge_training(pipeline, note, "test_training_step", lambda judge: check_steps(judge, pipeline.run.subject))


@pytest.mark.deep
def test_resume(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """The step after a resume equals the step without one, and a damaged checkpoint is refused."""
    with record() as note:
        _judge_training(pipeline, note, "test_resume", lambda judge: (judge.check_resume(),))


@pytest.mark.deep
def test_layout_conversion(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
    """Saved in one layout and loaded in another, weights, optimizer state and exports are the same bits."""
    with record() as note:
        layouts = list_conversion_layouts(pipeline.run.subject)
        check = lambda judge: (judge.check_layout_conversion(layouts),)  # noqa: E731
        _judge_training(pipeline, note, "test_layout_conversion", check)


def _judge_training(
    pipeline: ModelPipeline, note: Any, step: Step, check: Callable[[Judge], tuple[Verdict, ...]]
) -> None:
    evidence = pipeline.start_evidence(step)
    try:
        verdicts = check(pipeline.judge())
    except NotOfferedError as said:
        note(replace(evidence, failure_class="variant_did_not_run", diagnosis=f"did not run: {said}"))
        pytest.skip(f"did not run: {said}")
    _conclude(note, evidence, verdicts)
