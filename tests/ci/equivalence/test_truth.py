"""Hugging Face's side: what it reached is said, and what nobody saw is not claimed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.equivalence import routing
from ci.equivalence import truth as truth_module
from ci.equivalence.truth import Truth
from ci.equivalence.walk import TOP_EXPERTS
from ci.errors import RequestError, SubjectError
from ci.models import TestParams
from ci.records import to_json
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import TraceRequest, TraceResult


def truth_of(bench: Experiment, hugging_face: HuggingFace, workdir: Path) -> Truth:
    return Truth(bench.source, bench.model.test_params, hugging_face, "cpu", workdir / "truth")


class Discreet(HuggingFace):
    """Cannot tell which experts it chose."""

    def trace(self, request: TraceRequest) -> TraceResult:
        result = super().trace(request)
        hidden = tuple(name for names in result.names.values() for name in names if name.endswith(TOP_EXPERTS))
        names = {scope: tuple(set(found) - set(hidden)) for scope, found in result.names.items()}
        names = {scope: tuple(n for n in result.names[scope] if n in found) for scope, found in names.items()}
        less = replace(result, names=names, not_captured=hidden)
        (Path(request.output) / "trace.json").write_text(to_json(less), encoding="utf-8")
        return less


def test_experts_whose_choice_nobody_saw_are_not_covered(moe: Experiment, tmp_path: Path) -> None:
    assert moe.truth.cases
    assert moe.truth.coverage()["experts"] == "each of 6 in every layer received a token"
    blind = truth_of(moe, Discreet(), tmp_path)
    assert blind.cases
    assert blind.coverage()["experts"].startswith("not covered: Hugging Face's choice of experts is not captured")


def test_captures_that_hugging_face_lacks_stand_in_the_verdict(moe: Experiment, tmp_path: Path) -> None:
    judge = replace(moe.judge(ReferenceSubject(), moe.converted), shared_truth=truth_of(moe, Discreet(), tmp_path))
    verdict = judge.forward(dtype="float32", variant={})
    assert verdict.passed, verdict.diagnosis
    assert verdict.coverage["captures"] == "not covered: 4 tensors are not captured (choice of experts)"


def idle(truth: Truth) -> int:
    oracle = truth.oracle(truth.cases[0])
    names = [name for name in oracle if name.endswith(TOP_EXPERTS)]
    used = [routing.loads(oracle.tensor(name), 6, keep=truth.cases[0].keep) for name in names]
    return sum(int((load == 0).sum()) for load in used)


def test_a_batch_grows_until_every_expert_has_a_token(moe: Experiment, tmp_path: Path) -> None:
    few = Truth(moe.source, TestParams(batch_size=1, sequence_length=3), HuggingFace(), "cpu", tmp_path)
    assert len(few.cases[0].ids) > 3
    assert idle(few) == 0
    assert few.coverage()["experts"].startswith("each of 6")
    assert few.cases[1].of == "batch"


def test_experts_that_no_batch_reaches_are_said(
    moe: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth_module, "EXPERTS_GROW", ())
    few = Truth(moe.source, TestParams(batch_size=1, sequence_length=2), HuggingFace(), "cpu", tmp_path)
    assert idle(few) > 0
    assert few.coverage()["experts"] == f"not covered: {idle(few)} received no token"


@pytest.mark.parametrize(("published", "wider"), [("bfloat16", 4), ("float32", 2)])
def test_float64_is_the_oracle_where_it_fits_in_half_of_the_memory(
    dense: Experiment, tmp_path: Path, published: str, wider: int
) -> None:
    on_disk = sum(file.stat().st_size for file in dense.source.glob("*.safetensors"))
    for free, dtype in ((2 * wider * on_disk + 8, "float64"), (2 * wider * on_disk - 8, "float32")):
        truth = truth_of(dense, HuggingFace(), tmp_path)
        truth.__dict__ |= {"free_bytes": free, "config": {**truth.config, "dtype": published, "torch_dtype": None}}
        assert truth.oracle_dtype == dtype


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "float16"}, "float16"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"text_config": None}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_dtype_that_a_checkpoint_was_published_in(
    dense: Experiment, tmp_path: Path, config: dict[str, object], dtype: str
) -> None:
    truth = truth_of(dense, HuggingFace(), tmp_path)
    truth.__dict__["config"] = config
    assert truth.model_dtype == dtype


def test_a_config_that_cannot_be_read_is_said(dense: Experiment, tmp_path: Path) -> None:
    truth = replace(truth_of(dense, HuggingFace(), tmp_path), checkpoint=tmp_path)
    with pytest.raises(RequestError, match=r"config\.json: cannot be read"):
        _ = truth.config


class Narrow(HuggingFace):
    """A device that lacks every kernel but eager attention."""

    def trace(self, request: TraceRequest) -> TraceResult:
        if request.variant.get("attention") == "sdpa":
            raise SubjectError("no kernel image is available")
        return super().trace(request)


def test_a_kernel_that_the_device_lacks_is_one_noise_less_and_is_said(dense: Experiment, tmp_path: Path) -> None:
    truth = truth_of(dense, Narrow(), tmp_path)
    assert truth.limits(truth.cases[0], "float32").floors["logits"].error > 0
    assert "no kernel" not in truth.coverage()["noise"]
    assert "attention=sdpa" in truth.coverage()["noise"]


class Nothing(HuggingFace):
    """Runs in float64 only."""

    def trace(self, request: TraceRequest) -> TraceResult:
        if request.dtype != "float64":
            raise SubjectError("not implemented for 'Float'")
        return super().trace(request)


def test_without_any_noise_there_is_no_limit(dense: Experiment, tmp_path: Path) -> None:
    truth = truth_of(dense, Nothing(), tmp_path)
    with pytest.raises(SubjectError, match=r"no variant runs in float32: .*not implemented"):
        truth.limits(truth.cases[0], "float32")


def test_the_largest_noise_source_beyond_memory_is_left_out(dense: Experiment, tmp_path: Path) -> None:
    truth = truth_of(dense, HuggingFace(), tmp_path)
    case = truth.cases[0]
    assert {variant["attention"] for variant in truth.variants(case)} == {"eager", "sdpa"}
    small = truth_of(dense, HuggingFace(), tmp_path)
    small.__dict__["free_bytes"] = 1000
    assert {variant["attention"] for variant in small.variants(case)} == {"sdpa"}
    assert small.oracle_dtype == "float32"
    assert truth.oracle_dtype == "float64"
    assert "float64 does not fit" in small.coverage()["oracle"]
    assert small.fingerprint is None
    assert isinstance(truth.fingerprint, float)
