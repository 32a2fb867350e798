"""Hugging Face's side: what it reached is said, and what nobody saw is not claimed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.equivalence import expert_routing, hf_reference
from ci.equivalence.hf_reference import ReferenceRun
from ci.errors import RequestError
from ci.models import TestParams
from ci.records import to_json
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject
from ci.tensor_names import TOP_EXPERTS

if TYPE_CHECKING:
    from benchmarks.mutation.experiment import Experiment
    from ci.subjects.base import TraceRequest, TraceResult


def reference_run(experiment: Experiment, hugging_face: HuggingFace, workdir: Path) -> ReferenceRun:
    return ReferenceRun(experiment.source, experiment.model.test_params, hugging_face, "cpu", workdir / "reference")


class WithoutChoices(HuggingFace):
    """Cannot tell which experts it chose."""

    def trace(self, request: TraceRequest) -> TraceResult:
        result = super().trace(request)
        hidden = tuple(name for names in result.names.values() for name in names if name.endswith(TOP_EXPERTS))
        names = {scope: tuple(n for n in told if n not in hidden) for scope, told in result.names.items()}
        less = replace(result, names=names, not_captured=hidden)
        (Path(request.output) / "trace.json").write_text(to_json(less), encoding="utf-8")
        return less


def test_experts_are_not_covered_where_the_choice_is_not_captured(moe: Experiment, tmp_path: Path) -> None:
    assert moe.reference.cases
    assert moe.reference.describe_coverage()["experts"] == "each of 6 in every layer received a token"
    unseen = reference_run(moe, WithoutChoices(), tmp_path)
    assert unseen.cases
    assert unseen.describe_coverage()["experts"].startswith(
        "not covered: Hugging Face's choice of experts is not captured"
    )


def test_captures_that_hugging_face_lacks_are_in_the_verdict(moe: Experiment, tmp_path: Path) -> None:
    judge = replace(
        moe.judge(ReferenceSubject(), moe.converted), shared_reference=reference_run(moe, WithoutChoices(), tmp_path)
    )
    verdict = judge.check_forward(dtype="float32", variant={})
    assert verdict.passed, verdict.diagnosis
    assert verdict.coverage["captures"] == "not covered: 4 tensors are not captured (choice of experts)"


def idle(reference: ReferenceRun) -> int:
    expected = reference.get_expected_trace(reference.cases[0])
    names = [name for name in expected if name.endswith(TOP_EXPERTS)]
    used = [
        expert_routing.count_expert_tokens(expected.tensor(name), 6, keep=reference.cases[0].keep) for name in names
    ]
    return sum(int((load == 0).sum()) for load in used)


def test_a_batch_grows_until_every_expert_has_a_token(moe: Experiment, tmp_path: Path) -> None:
    few = ReferenceRun(moe.source, TestParams(batch_size=1, sequence_length=3), HuggingFace(), "cpu", tmp_path)
    assert len(few.cases[0].ids) > 3
    assert idle(few) == 0
    assert few.describe_coverage()["experts"].startswith("each of 6")
    assert few.cases[1].part_of == "batch"


def test_experts_that_no_batch_reaches_are_counted(
    moe: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_reference, "BATCH_GROWTH", ())
    few = ReferenceRun(moe.source, TestParams(batch_size=1, sequence_length=2), HuggingFace(), "cpu", tmp_path)
    assert idle(few) > 0
    assert few.describe_coverage()["experts"] == f"not covered: {idle(few)} received no token"


@pytest.mark.parametrize(("published", "wider"), [("bfloat16", 4), ("float32", 2)])
def test_the_expected_trace_is_float64_where_it_fits_in_half_of_the_memory(
    dense: Experiment, tmp_path: Path, published: str, wider: int
) -> None:
    on_disk = sum(file.stat().st_size for file in dense.source.glob("*.safetensors"))
    for free, dtype in ((2 * wider * on_disk + 8, "float64"), (2 * wider * on_disk - 8, "float32")):
        reference = reference_run(dense, HuggingFace(), tmp_path)
        reference.__dict__ |= {
            "free_bytes": free,
            "config": {**reference.config, "dtype": published, "torch_dtype": None},
        }
        assert reference.expected_dtype == dtype


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
    reference = reference_run(dense, HuggingFace(), tmp_path)
    reference.__dict__["config"] = config
    assert reference.model_dtype == dtype


def test_a_config_that_cannot_be_read_is_said(dense: Experiment, tmp_path: Path) -> None:
    reference = replace(reference_run(dense, HuggingFace(), tmp_path), checkpoint=tmp_path)
    with pytest.raises(RequestError, match=r"config\.json: cannot be read"):
        _ = reference.config


def test_eager_attention_beyond_memory_is_left_out_of_the_noise(dense: Experiment, tmp_path: Path) -> None:
    reference = reference_run(dense, HuggingFace(), tmp_path)
    case = reference.cases[0]
    assert {variant["attention"] for variant in reference.list_variants(case)} == {"eager", "sdpa"}
    small = reference_run(dense, HuggingFace(), tmp_path)
    small.__dict__["free_bytes"] = 1000
    assert {variant["attention"] for variant in small.list_variants(case)} == {"sdpa"}
    assert small.expected_dtype == "float32"
    assert reference.expected_dtype == "float64"
    assert "float64 does not fit" in small.describe_coverage()["oracle"]
    assert small.fingerprint is None
    assert isinstance(reference.fingerprint, float)
