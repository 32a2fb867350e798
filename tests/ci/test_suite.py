from pathlib import Path
from typing import Any

import pytest

from ci import suite
from ci.errors import GatedError, InfrastructureError, RequestError, SubjectError, UnsupportedError
from ci.hub.fetch import Checkpoint
from ci.models import HubModel
from ci.settings import Settings
from ci.subjects.failure import SubjectCrashError, SubjectOutOfMemoryError, SubjectTimeoutError
from ci.suite import Chain, StepFailedError, SuiteOptions, failure_class

MODEL = HubModel("tiny", "o/n", "llama")
CHECKPOINT = Checkpoint("o/n", "f" * 40, 2, "/store/x", "hit", 10, 0, 0, 0.1, "a" * 64, 30)


def chain(tmp_path: Path, **options: Any) -> Chain:
    return Chain(MODEL, SuiteOptions(**options), Settings(cache=tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedError("g"), "gated"),
        (StepFailedError("test_download_and_truncate", GatedError("g")), "gated"),
        (StepFailedError("test_download_and_truncate", InfrastructureError("away")), "hub_unavailable"),
        (StepFailedError("test_conversion", InfrastructureError("disk full")), "environment"),
        (StepFailedError("test_conversion", UnsupportedError("rope type")), "unsupported"),
        (SubjectError("refused"), "other"),
        (SubjectCrashError("SIGSEGV"), "crash"),
        (SubjectTimeoutError("hung"), "timeout"),
        (SubjectOutOfMemoryError("full"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (AssertionError("wrong"), "other"),
        (RequestError("bad option"), "environment"),
    ],
)
def test_a_subject_is_never_excused_and_infrastructure_never_blamed(error: Exception, said: str) -> None:
    assert failure_class(error) == said


def test_a_step_runs_once_and_its_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(*_: Any, **__: Any) -> Checkpoint:
        asked.append(1)
        raise InfrastructureError("the Hub is away")

    monkeypatch.setattr(suite, "fetch", fetch)
    steps = chain(tmp_path)
    for work in (steps.checkpoint, steps.converted, steps.exported, steps.judge):
        with pytest.raises(StepFailedError, match="the Hub is away") as caught:
            work()
    assert caught.value.step == "test_download_and_truncate"
    assert asked == [1]


def test_what_the_fetch_could_not_have_is_not_asked_for_again(tmp_path: Path) -> None:
    steps = chain(tmp_path, checkpoints={"tiny": GatedError("tiny is gated")})
    with pytest.raises(StepFailedError, match="tiny is gated"):
        steps.checkpoint()


def test_a_checkpoint_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(suite, "fetch", lambda *_, **__: replace(CHECKPOINT, manifest_sha256="b" * 64))
    with pytest.raises(StepFailedError, match="is not the one that was fetched for this run"):
        chain(tmp_path, checkpoints={"tiny": CHECKPOINT}).checkpoint()


def test_evidence_knows_what_earlier_steps_established(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "fetch", lambda *_, **__: CHECKPOINT)
    steps = chain(tmp_path)
    assert steps.evidence("test_conversion").revision == ""
    steps.checkpoint()
    evidence = steps.evidence("test_conversion", "moe=looped")
    assert (evidence.revision, evidence.layers, evidence.variant) == ("f" * 40, 2, "moe=looped")
