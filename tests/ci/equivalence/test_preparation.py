"""Hugging Face beside the conversion: the same numbers as in turn, a thread that ends, an error that is raised once."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.preparation import ReferencePreparation
from ci.errors import SubjectError
from ci.phases import PhaseClock
from ci.subjects.hugging_face import HuggingFace

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment


def make_run(experiment: Experiment, workdir: Path) -> ReferenceRun:
    return ReferenceRun(experiment.source, experiment.model.test_params, HuggingFace(), "cpu", workdir)


def test_a_thread_measures_what_the_checks_measure(dense: Experiment, tmp_path: Path) -> None:
    run = make_run(dense, tmp_path / "beside")
    prepared = ReferencePreparation(run)
    prepared.start()
    prepared.finish()
    alone = make_run(dense, tmp_path / "alone")
    alone.prepare("float32")
    for case, other in zip(run.cases, alone.cases, strict=True):
        assert run._tolerances[case.name, "float32", False] == alone.get_tolerances(other, "float32")
        assert run._tolerances[case.name, run.model_dtype, False]
    assert run.fingerprint == alone.fingerprint
    times = run.costs.clock.take()
    assert sum(one.seconds + one.beside for one in times if one.phase in ("load", "forward")) > 0


LOOKS = 10_000


class Slow:
    """Stands for a reference run whose every trace takes a while."""

    model_dtype, free_bytes = "bfloat16", 1
    error: Exception | None = None

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun = threading.Event()
        self.costs = type("Costs", (), {"clock": PhaseClock()})()

    def prepare(self, dtype: str, *, stop: Any) -> None:
        for _ in range(LOOKS):
            if stop():
                return
            if self.error:
                raise self.error
            self.begun.set()
            self.done.append(dtype)
            time.sleep(0.01)


def test_a_run_that_ends_early_stops_the_thread() -> None:
    slow: Any = Slow()
    prepared = ReferencePreparation(slow)
    prepared.start()
    assert slow.begun.wait(120)
    prepared.stop()
    assert 0 < len(slow.done) < LOOKS
    assert "reference" not in {thread.name for thread in threading.enumerate()}


def test_an_error_is_left_to_the_check_that_needs_the_result() -> None:
    slow: Any = Slow()
    slow.error = SubjectError("does not load")
    prepared = ReferencePreparation(slow)
    prepared.start()
    prepared.finish()
    assert slow.done == []


def test_a_thread_that_was_never_started_is_ended_too() -> None:
    slow: Any = Slow()
    prepared = ReferencePreparation(slow)
    prepared.stop()
    prepared.finish()
