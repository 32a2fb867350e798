"""Single runs of Hugging Face: what is written once, and which variant is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.device_usage import CostMeter, DeviceLease
from ci.equivalence.reference_runner import ReferenceRunner, explain_failure
from ci.errors import NotComparedError, NotOfferedError, SubjectError, UnsupportedError
from ci.subjects.base import GradientRequest
from ci.subjects.failure import SubjectCrashError, SubjectOutOfMemoryError, SubjectTimeoutError
from ci.subjects.hugging_face import HuggingFace
from tests.ci.subjects.own_code import break_backward, save_code, save_config

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment


class CodeUnderTest(HuggingFace):
    """Hugging Face's side with modelling code of the tested commit, in this process."""

    def runs_code_under_test(self) -> bool:
        return True


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


@pytest.mark.parametrize(("side", "kind"), [(CodeUnderTest, SubjectError), (HuggingFace, NotComparedError)])
def test_only_a_tested_commit_answers_for_the_backward_pass_of_modelling_code(
    side: type[HuggingFace], kind: type[SubjectError], tmp_path: Path
) -> None:
    """Its forward pass runs: without this, a commit that breaks the backward pass alone would not be red."""
    code = break_backward(save_code(tmp_path / "code"))
    hugging_face, config = side(code=code), save_config(tmp_path / "config", ("attention",))
    hugging_face.write_model(str(config), str(tmp_path / "model"), "float32", 3)
    save_file({"input_ids": torch.arange(7)[None]}, tmp_path / "inputs.safetensors")
    model, inputs, output = (str(tmp_path / name) for name in ("model", "inputs.safetensors", "gradients"))
    runner = ReferenceRunner(
        tmp_path / "model", hugging_face, "cpu", tmp_path / "work", DeviceLease("cpu"), CostMeter()
    )
    with pytest.raises(SubjectError, match="backward fails: RuntimeError: a broken backward pass") as failed:
        runner.run_gradients(GradientRequest(model, inputs, output, "mtp_llama"))
    assert type(failed.value) is kind


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        (SubjectCrashError, SubjectCrashError),
        (SubjectTimeoutError, SubjectTimeoutError),
        (UnsupportedError, SubjectError),
        (NotOfferedError, SubjectError),
        (SubjectOutOfMemoryError, NotComparedError),
    ],
)
def test_no_failure_of_code_under_test_is_a_refusal_but_for_want_of_memory(
    failed: type[SubjectError], kind: type[SubjectError]
) -> None:
    explained = explain_failure(CodeUnderTest(), "cannot train this model", failed("said"))
    assert type(explained) is kind
    assert str(explained).endswith("cannot train this model: said")
    assert type(explain_failure(HuggingFace(), "cannot train this model", failed("said"))) is NotComparedError
