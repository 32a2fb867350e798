import gc
import os
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.checkpoints import make_fetch_request
from ci.errors import (
    GatedError,
    HubTestsError,
    InfrastructureError,
    NotTruncatableError,
    QuantizedError,
    RemoteCodeError,
    RequestError,
    SubjectError,
    UnsupportedError,
)
from ci.hub.fetch import Checkpoint, fetch
from ci.models import HubModel
from ci.run_options import RunOptions
from ci.settings import Settings
from ci.subjects import early_export
from ci.subjects.base import ExportRequest, Variant
from ci.subjects.failure import SubjectCrashError, SubjectOutOfMemoryError, SubjectTimeoutError
from ci.subjects.offer import NO_ATTENTION, NO_EXPERTS
from ci.subjects.registry import find_offer
from ci.subjects.sandbox import Isolation
from ci.suite import pipeline as steps
from ci.suite.pipeline import DEQUANTIZED, CachedStep, ModelPipeline, StepFailedError, classify_failure
from tests.ci.hub.samples import CONFIG, make_repository
from tests.ci.subjects.quantized_models import write_quantized
from tests.standin.models import repository
from tests.standin.server import HubServer

NESTED = {
    "num_hidden_layers": None,
    "decoder": {"type": "fixed", "num_blocks": 5, "block": {"mixer": {"type": "gdn", "key_heads": 2}}},
}
"""A config.json of Fast-LLM's apriel2 without attention."""
MODEL = HubModel("tiny", "o/n", "llama")
CHECKPOINT = Checkpoint("o/n", "f" * 40, 2, "/store/x", "hit", 10, 0, 0, 0.1, "a" * 64, 30)


def make_pipeline(tmp_path: Path, fetched: Checkpoint | HubTestsError | None = None) -> ModelPipeline:
    options = RunOptions(subject="reference", device="cpu")
    return ModelPipeline(MODEL, options, Settings(cache=tmp_path), tmp_path, fetched=fetched)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedError("g"), "gated"),
        (StepFailedError("test_download_and_truncate", GatedError("g")), "gated"),
        (StepFailedError("test_download_and_truncate", InfrastructureError("away")), "hub_unavailable"),
        (StepFailedError("test_download_and_truncate", NotTruncatableError("no rule")), "not_truncatable"),
        (StepFailedError("test_download_and_truncate", RequestError("99 layers")), "environment"),
        (StepFailedError("test_conversion", NotTruncatableError("no rule")), "not_truncatable"),
        (StepFailedError("test_conversion", InfrastructureError("disk full")), "environment"),
        (StepFailedError("test_conversion", UnsupportedError("rope type")), "unsupported"),
        (SubjectError("refused"), "other"),
        (SubjectCrashError("SIGSEGV"), "crash"),
        (SubjectTimeoutError("hung"), "timeout"),
        (SubjectOutOfMemoryError("full"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (AssertionError("wrong"), "other"),
        (RequestError("bad option"), "environment"),
        (StepFailedError("test_download_and_truncate", RemoteCodeError("own code")), "remote_code"),
        (StepFailedError("test_download_and_truncate", QuantizedError("codes")), "quantized"),
    ],
)
def test_a_subject_is_never_excused_and_infrastructure_never_blamed(error: Exception, said: str) -> None:
    assert classify_failure(error) == said


def test_a_step_runs_once_and_its_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(*_: Any, **__: Any) -> Checkpoint:
        asked.append(1)
        raise InfrastructureError("the Hub is away")

    monkeypatch.setattr(steps, "fetch", fetch)
    pipeline = make_pipeline(tmp_path)
    for work in (pipeline.fetch_checkpoint, pipeline.convert, pipeline.export, pipeline.judge):
        with pytest.raises(StepFailedError, match="the Hub is away") as caught:
            work()
    assert caught.value.step == "test_download_and_truncate"
    assert asked == [1]


def test_what_the_fetch_could_not_have_is_not_asked_for_again(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path, GatedError("tiny is gated"))
    with pytest.raises(StepFailedError, match="tiny is gated"):
        pipeline.fetch_checkpoint()


def test_a_model_with_code_of_its_own_is_refused_whatever_was_fetched(tmp_path: Path) -> None:
    options = RunOptions(subject="reference", device="cpu")
    model = replace(MODEL, trust_remote_code=True)
    for fetched in (None, CHECKPOINT):
        pipeline = ModelPipeline(model, options, Settings(cache=tmp_path), tmp_path, fetched=fetched)
        with pytest.raises(StepFailedError, match="trust_remote_code") as refused:
            pipeline.fetch_checkpoint()
        assert classify_failure(refused.value) == "remote_code"


def test_a_checkpoint_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "fetch", lambda *_, **__: replace(CHECKPOINT, manifest_sha256="b" * 64))
    with pytest.raises(StepFailedError, match="is not the one that was fetched for this run"):
        make_pipeline(tmp_path, CHECKPOINT).fetch_checkpoint()


@pytest.mark.parametrize("restored", [False, True])
def test_what_was_admitted_earlier_is_hashed_again_where_others_may_write(
    hub: HubServer, tmp_path: Path, restored: bool
) -> None:
    """`--checkpoints` names what another job fetched: names, sizes and times prove nothing about it."""
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, repository("stand-in/llama"))
    fetched = fetch(make_fetch_request(MODEL), settings)
    options = RunOptions(subject="reference", device="cpu")
    weights = Path(fetched.path) / "model.safetensors"
    before, content = weights.stat(), bytearray(weights.read_bytes())
    settings.cache.chmod(0o777)
    content[-1] ^= 0 if restored else 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    offline = replace(settings, offline=True)
    pipeline = ModelPipeline(MODEL, options, offline, tmp_path, fetched=fetched)
    if restored:
        assert pipeline.fetch_checkpoint().manifest_sha256 == fetched.manifest_sha256
        return
    with pytest.raises(StepFailedError, match="HF_HUB_OFFLINE is set"):
        pipeline.fetch_checkpoint()
    assert not weights.exists(), "what is damaged is set aside"


@pytest.mark.parametrize("rule", ["", "fp8-blocks"])
def test_fp8_weights_are_refused_or_dequantised_by_the_entrys_rule(hub: HubServer, tmp_path: Path, rule: Any) -> None:
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, write_quantized(tmp_path / "codes", "fp8", settings=True))
    model, options = replace(MODEL, dequantize=rule), RunOptions(subject="reference", device="cpu")
    with ModelPipeline(model, options, settings, tmp_path) as pipeline:
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


def test_another_scheme_than_the_entrys_rule_is_refused(hub: HubServer, tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    hub.add(MODEL.model_id, write_quantized(tmp_path / "codes", "bitsandbytes", settings=True))
    model, options = replace(MODEL, dequantize="fp8-blocks"), RunOptions(subject="reference", device="cpu")
    with ModelPipeline(model, options, settings, tmp_path) as pipeline:
        with pytest.raises(StepFailedError, match="quant_method 'bitsandbytes'") as refused:
            pipeline.convert()
        assert classify_failure(refused.value) == "quantized"


def test_evidence_knows_what_earlier_steps_established(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "fetch", lambda *_, **__: CHECKPOINT)
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


def test_a_steps_value_is_kept() -> None:
    step = CachedStep[int]("test_conversion")
    assert [step.run(lambda: 3), step.run(lambda: 4)] == [3, 3]
    assert step.value == 3


@pytest.mark.parametrize("shares", [True, False])
def test_a_subject_in_the_judges_interpreter_is_labelled_as_not_isolated(
    shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "choose_isolation", lambda _: Isolation(Path("/usr/bin/bwrap"), "bubblewrap 0.8.0"))
    monkeypatch.setattr(steps, "shares_interpreter", lambda *_: shares)
    pipeline = ModelPipeline(MODEL, RunOptions(subject="fast_llm", device="cpu"), Settings(cache=tmp_path), tmp_path)
    said = "none: installed in hub-tests' own interpreter" if shares else "bubblewrap 0.8.0"
    assert pipeline.start_evidence("test_conversion").isolation == said


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


def test_a_dense_model_lacks_experts_where_others_of_its_format_have_them(hub: HubServer, tmp_path: Path) -> None:
    """The report accepts that variants of a mixture did not run only where the suite names this need."""
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    dense = HubModel("dense", "stand-in/gemma4-dense", "gemma4")
    hub.add(dense.model_id, repository(dense.model_id))
    options = RunOptions(subject="fast_llm", device="cpu")
    with ModelPipeline(dense, options, settings, tmp_path) as pipeline:
        assert pipeline.find_need("moe", "looped", None) == NO_EXPERTS
        assert pipeline.find_need("attention", "backup", None) == ""
        assert pipeline.find_need("moe", "dropless", Variant("moe", "dropless", needs="triton")) == "triton"
        assert pipeline.find_need("mixer", "gdn", None) == "a stochastic mixer of this name in every block"


def test_a_model_of_recurrences_alone_lacks_attention(hub: HubServer, tmp_path: Path) -> None:
    directory = make_repository(tmp_path / "m", config={**CONFIG, **NESTED})
    hub.add("o/gdn", directory)
    model = HubModel("gdn", "o/gdn", "apriel2_text")
    options = RunOptions(subject="fast_llm", device="cpu")
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    with ModelPipeline(model, options, settings, tmp_path) as pipeline:
        assert pipeline.find_need("attention", "backup", None) == NO_ATTENTION


def test_an_adapter_that_only_its_file_names_is_found_again_by_every_test(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    options = RunOptions(subject=f"{root / 'examples/toy_adapter.py'}:ToySubject", device="cpu")
    pipeline = ModelPipeline(MODEL, options, Settings(tmp_path / "cache"), tmp_path)
    assert (pipeline.subject_name, find_offer(pipeline.subject)) == ("toy", pipeline.offer)
    suite_text = (root / "tests/integration/test_hub_integration.py").read_text()
    assert not re.findall(r"[\w.]+\((?:[^()]*, )?pipeline\.subject_name\b", suite_text), "its name finds no adapter"
