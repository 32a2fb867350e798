import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.errors import GatedError, HubTestsError, InfrastructureError
from ci.hub.fetch import Checkpoint
from ci.settings import Settings
from ci.subjects import early_export
from ci.subjects.base import ConvertRequest, ExportRequest
from ci.subjects.reference.subject import ReferenceSubject
from ci.suite import source_checkpoint
from ci.suite.cached_step import StepFailedError
from ci.suite.failure_class import classify_failure
from ci.suite.pipeline import ModelPipeline
from ci.suite.source_checkpoint import DEQUANTIZED
from tests.ci.subjects.quantized_models import write_quantized
from tests.ci.suite.samples import CHECKPOINT, MODEL, make_run
from tests.standin.models import repository
from tests.standin.quantized import cast_codes, write_fp8
from tests.standin.server import HubServer


def make_pipeline(tmp_path: Path, fetched: Checkpoint | HubTestsError | None = None) -> ModelPipeline:
    return ModelPipeline(make_run(tmp_path), fetched)


def test_a_step_runs_once_and_its_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(*_: Any, **__: Any) -> Checkpoint:
        asked.append(1)
        raise InfrastructureError("the Hub is away")

    monkeypatch.setattr(source_checkpoint, "fetch", fetch)
    pipeline = make_pipeline(tmp_path)
    for work in (pipeline.fetch_checkpoint, pipeline.convert, pipeline.export, pipeline.judge):
        with pytest.raises(StepFailedError, match="the Hub is away") as caught:
            work()
    assert caught.value.step == "test_download_and_truncate"
    assert asked == [1]


def test_evidence_knows_what_earlier_steps_established(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_checkpoint, "fetch", lambda *_, **__: CHECKPOINT)
    pipeline = make_pipeline(tmp_path)
    assert pipeline.start_evidence("test_conversion").revision == ""
    pipeline.fetch_checkpoint()
    evidence = pipeline.start_evidence("test_conversion", "moe=looped")
    assert (evidence.revision, evidence.layers, evidence.variant) == ("f" * 40, 2, "moe=looped")


def test_a_pipeline_is_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    """Its judge holds reference traces: they must not wait for a collection while the next model is loaded."""
    pipeline = make_pipeline(tmp_path, GatedError("gated"))
    gone = weakref.ref(pipeline)
    gc.disable()
    try:
        del pipeline
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(("expected", "possible", "early"), [(True, True, 1), (False, True, 0), (True, False, 0)])
def test_an_export_that_a_test_will_ask_for_begins_after_the_conversion(
    expected: bool, possible: bool, early: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Early:
        def __init__(self, *_: Any) -> None:
            said.append("made")

        def __getattr__(self, name: str) -> Any:
            return lambda: said.append(name)

    class Subject:
        def export(self, request: ExportRequest) -> None:
            said.append(f"export {request.source}")

    monkeypatch.setattr(early_export, "EarlyExport", Early)
    monkeypatch.setattr(early_export, "can_export_early", lambda *_: possible)
    with make_pipeline(tmp_path) as pipeline:
        pipeline.export_expected = expected
        monkeypatch.setattr(pipeline, "start_subject", Subject)
        monkeypatch.setattr(pipeline, "convert", lambda: (tmp_path / "converted", None))
        monkeypatch.setattr(
            pipeline, "_make_export_request", lambda path: ExportRequest(str(path), "exported", "llama")
        )
        pipeline._start_export(tmp_path / "converted")
        assert said == early * ["made", "start"]
        assert pipeline.export() == Path("exported")
    assert said == (["made", "start", "finish", "stop"] if early else [f"export {tmp_path / 'converted'}"])


@pytest.mark.parametrize("rule", ["", "fp8-blocks"])
def test_fp8_weights_are_refused_or_dequantised_by_the_entrys_rule(hub: HubServer, tmp_path: Path, rule: Any) -> None:
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, write_quantized(tmp_path / "codes", "fp8", settings=True))
    run = make_run(tmp_path, replace(MODEL, dequantize=rule), settings=settings)
    with ModelPipeline(run) as pipeline:
        if not rule:
            with pytest.raises(StepFailedError, match="fp8, e4m3") as refused:
                pipeline.judge()
            assert classify_failure(refused.value) == "quantized"
            return
        assert DEQUANTIZED in pipeline.fetch_checkpoint().notes
        verdict = pipeline.judge().check_round_trip(str(pipeline.export()))
        assert verdict.passed, verdict.diagnosis
        assert pipeline.judge().check_forward(dtype="float32", variant={}).passed
        (stored,) = (row for row in verdict.companions if row.name == "stored")
        assert (stored.before, stored.judgement) == ("BF16", "equal")


@pytest.mark.parametrize("cast", [False, True])
def test_a_subject_that_casts_raw_codes_is_red_and_named(hub: HubServer, tmp_path: Path, cast: bool) -> None:
    """Blocks of odd sizes, each with its own scale; without the scales the model answers fluently, and wrongly."""
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, write_fp8(repository("stand-in/llama"), tmp_path / "codes", (25, 41)))
    with ModelPipeline(make_run(tmp_path, replace(MODEL, dequantize="fp8-blocks"), settings=settings)) as pipeline:
        source = (
            cast_codes(Path(pipeline.fetch_checkpoint().path), tmp_path / "cast") if cast else pipeline.find_source()
        )
        judge = pipeline.judge()
        converted = tmp_path / "by the subject"
        ReferenceSubject().convert(ConvertRequest(str(source), str(converted), "llama"))
        inputs = replace(judge.inputs, subject_path=str(converted))
        verdict = replace(judge, inputs=inputs).check_forward(dtype="float32", variant={})
    assert verdict.passed is not cast, verdict.diagnosis
    if cast:
        assert verdict.component == "conversion"
        assert "q_proj.weight (numbers of float8: codes that were cast, without their scales)" in verdict.diagnosis


def test_another_scheme_than_the_entrys_rule_is_refused(hub: HubServer, tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, write_quantized(tmp_path / "codes", "bitsandbytes", settings=True))
    run = make_run(tmp_path, replace(MODEL, dequantize="fp8-blocks"), settings=settings)
    with ModelPipeline(run) as pipeline:
        with pytest.raises(StepFailedError, match="quant_method 'bitsandbytes'") as refused:
            pipeline.convert()
        assert classify_failure(refused.value) == "quantized"
