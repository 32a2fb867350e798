"""An export in a thread and a process of its own: its result, its failure, and its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError
from ci.phases import PhaseClock
from ci.subjects import exchange, memory
from ci.subjects.base import ExportRequest
from ci.subjects.early_export import EarlyExport, can_export_early
from ci.subjects.sandbox import NO_SANDBOX, detect_isolation
from tests.ci.subjects.impostor import open_impostor

if TYPE_CHECKING:
    from pathlib import Path

EXPORT = """
    if request["method"] == "export":
        target = request["arguments"]["target"]
        os.mkdir(target)
        open(target + "/model", "w").write("x")
        time.sleep({seconds})
        say(result={{"files": ["model"], "bytes_written": 1, "seconds": 1.0}})
    else:
        say(result=True)
"""


@pytest.fixture
def request_of(tmp_path: Path) -> ExportRequest:
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "weights").write_text("x")
    return ExportRequest(str(tmp_path / "converted"), str(tmp_path / "exported"), "llama")


def test_it_runs_beside_other_work_and_gives_its_result(request_of: ExportRequest, tmp_path: Path) -> None:
    clock = PhaseClock()
    with open_impostor(tmp_path, EXPORT.format(seconds=1), clock=clock) as subject:
        export = EarlyExport(subject, request_of)
        export.start()
        assert subject.variants(request_of.source) == (), "the worker itself answers meanwhile"
        assert export.finish().files == ("model",)
        assert export.finish().files == ("model",)
    assert (tmp_path / "exported" / "model").read_text() == "x"
    assert {time.phase for time in clock.take()} >= {"convert"}


def test_its_failure_is_that_of_who_asks_for_it(request_of: ExportRequest, tmp_path: Path) -> None:
    code = "say(failure='error', message='no such layer')"
    with open_impostor(tmp_path, code) as subject:
        export = EarlyExport(subject, request_of)
        export.start()
        for _ in range(2):
            with pytest.raises(SubjectError, match="no such layer"):
                export.finish()


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.8])
def test_it_can_be_ended_wherever_it_is(seconds: float, request_of: ExportRequest, tmp_path: Path) -> None:
    with open_impostor(tmp_path, EXPORT.format(seconds=600)) as subject:
        export = EarlyExport(subject, request_of)
        export.stop()  # it has not begun
        export.start()
        time.sleep(seconds)
        started = time.monotonic()
        export.stop()
        assert time.monotonic() - started < 200
        with pytest.raises(SubjectError):
            export.finish()
    assert not (tmp_path / "exported").exists()


def test_it_needs_a_large_checkpoint_a_gpu_memory_and_a_sandbox(
    request_of: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(device: str = "cuda", **rest: Any) -> bool:
        with open_impostor(tmp_path, "say(result=True)", **rest) as subject:
            return can_export_early(subject, tmp_path / "converted", device)

    assert not ask(isolation=detect_isolation()), "small"
    monkeypatch.setattr(exchange, "MAX_COPIED_BYTES", 0)
    monkeypatch.setattr(memory, "free_memory", lambda _: 1 << 40)
    assert ask(isolation=detect_isolation()) is detect_isolation().applied
    assert not ask("cpu", isolation=detect_isolation())
    assert not ask(isolation=NO_SANDBOX)
    monkeypatch.setattr(memory, "free_memory", lambda _: 0)
    assert not ask(isolation=detect_isolation())


def test_a_subject_in_this_process_has_no_process_to_spare(tmp_path: Path) -> None:
    assert not can_export_early(object(), tmp_path, "cuda")  # type: ignore[arg-type]
