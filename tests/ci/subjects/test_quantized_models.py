"""Who refuses a quantised checkpoint: hub-tests before the subject, and each subject that gets one all the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors import safe_open

from ci.equivalence.comparison_inputs import ComparisonInputs
from ci.equivalence.dequantized_checkpoint import dequantize_checkpoint
from ci.equivalence.judge import Judge
from ci.errors import QuantizedError, SubjectError
from ci.hub.quantization import check_quantization
from ci.models import HubModel
from ci.subjects.base import ConvertRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.subjects.quantized_models import SCHEMES, write_quantized
from tests.standin.models import repository
from tests.standin.quantized import cast_codes, write_fp8

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import Subject

CASES = [(scheme, settings) for scheme in SCHEMES for settings in (True, False)]
IDS = [f"{scheme}-{'described' if settings else 'not described'}" for scheme, settings in CASES]


@pytest.mark.parametrize(("scheme", "settings"), CASES, ids=IDS)
def test_hub_tests_refuses_it_before_the_subject(scheme: str, settings: bool, tmp_path: Path) -> None:
    directory = write_quantized(tmp_path / "model", scheme, settings=settings)
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
    config = json.loads((directory / "config.json").read_text())
    with pytest.raises(QuantizedError):
        check_quantization(config, dtypes, what="o/n")
    with pytest.raises(QuantizedError):
        check_quantization({}, dtypes, what="o/n")


@pytest.mark.parametrize(("scheme", "settings"), CASES, ids=IDS)
def test_the_reference_refuses_it_too(scheme: str, settings: bool, tmp_path: Path) -> None:
    directory = write_quantized(tmp_path / "model", scheme, settings=settings)
    with pytest.raises(SubjectError):
        ReferenceSubject().convert(ConvertRequest(str(directory), str(tmp_path / "converted"), "llama"))


@pytest.mark.long
@pytest.mark.parametrize(("scheme", "settings"), CASES, ids=IDS)
def test_fast_llm_refuses_it_too(scheme: str, settings: bool, tmp_path: Path, fast_llm: Subject) -> None:
    """By its config's unknown key; without that, by the scales that it has no parameter for."""
    directory = write_quantized(tmp_path / "model", scheme, settings=settings)
    with pytest.raises(SubjectError, match="quantization_config" if settings else "AssertionError|KeyError"):
        fast_llm.convert(ConvertRequest(str(directory), str(tmp_path / "converted"), "llama"))


@pytest.mark.long
def test_fast_llm_is_right_on_dequantised_weights_and_wrong_on_codes(fast_llm: Subject, tmp_path: Path) -> None:
    """Blocks of odd sizes, each with its own scale: what "fp8-blocks" gives a subject, and its opposite."""
    codes = write_fp8(repository("stand-in/llama"), tmp_path / "codes", (25, 41))
    plain = dequantize_checkpoint(codes, tmp_path / "plain", what="o/n")
    verdicts = []
    for name, source in (("right", plain), ("wrong", cast_codes(codes, tmp_path / "cast"))):
        converted = str(tmp_path / name)
        fast_llm.convert(ConvertRequest(str(source), converted, "llama"))
        inputs = ComparisonInputs(
            HubModel("m", "o/n", "llama"), str(plain), converted, workdir=str(tmp_path / f"{name}-judge")
        )
        judge = Judge(inputs, fast_llm, HuggingFace(), ReferenceSubject())
        verdicts.append(judge.check_forward(dtype="float32", variant={}))
    right, wrong = verdicts
    assert right.passed, right.diagnosis
    assert (wrong.passed, wrong.component) == (False, "conversion")
    assert "codes that were cast, without their scales" in wrong.diagnosis
