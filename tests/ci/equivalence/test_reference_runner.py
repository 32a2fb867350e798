"""Single runs of Hugging Face: what is written once, and which variant is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ci.equivalence.device_usage import CostMeter, DeviceLease
from ci.equivalence.reference_runner import ReferenceRunner
from ci.subjects.hugging_face import HuggingFace

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment


def make_runner(experiment: Experiment, workdir: Path) -> ReferenceRunner:
    return ReferenceRunner(experiment.source, HuggingFace(), "cpu", workdir, DeviceLease("cpu"), CostMeter())


def test_the_inputs_of_a_case_are_written_once(dense: Experiment, tmp_path: Path) -> None:
    runner, case = make_runner(dense, tmp_path / "work"), dense.reference.cases[0]
    file = runner.write_inputs(case)
    assert load_file(file)["input_ids"].equal(case.ids)
    written = file.stat().st_mtime_ns
    assert runner.write_inputs(case) == file
    assert file.stat().st_mtime_ns == written


def test_only_a_choice_that_the_model_has_is_in_the_variant(dense: Experiment, tmp_path: Path) -> None:
    runner = make_runner(dense, tmp_path)
    assert runner.choose_variant("eager")["attention"] == "eager"
    assert "attention" not in runner.choose_variant("of another library")


def test_a_trace_is_written_anew_and_its_seconds_count(dense: Experiment, tmp_path: Path) -> None:
    runner, case = make_runner(dense, tmp_path), dense.reference.cases[0]
    (tmp_path / "again").mkdir()
    (tmp_path / "again/old").touch()
    trace = runner.run_trace(case, "float32", runner.choose_variant("sdpa"), "again")
    assert trace.path == tmp_path / "again"
    assert not (trace.path / "old").exists()
    assert "logits" in set(trace)
    assert runner.costs.forward > 0
