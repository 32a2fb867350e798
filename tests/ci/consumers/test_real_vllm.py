"""The real vLLM on CPU: planted faults of exports are found, and clean ones are green.

    HUB_TESTS_VLLM_PYTHON=ENV/bin/python pytest -m long tests/ci/consumers/test_real_vllm.py

`hub-tests env build vllm` prints the interpreter. On two cores it takes some minutes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.consumers.open_consumer import find_interpreter, open_consumer
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.served_export import ServedExport
from ci.models import TestParams
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.sandbox import choose_isolation
from tests.ci.equivalence.served_faults import FAULTS, plant_fault
from tests.ci.equivalence.served_models import build_served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.consumers.worker_consumer import WorkerConsumer

PYTHON = os.environ.get("HUB_TESTS_VLLM_PYTHON")
SECONDS = 600.0
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerConsumer]:
    if not PYTHON:
        pytest.skip("needs vLLM: set HUB_TESTS_VLLM_PYTHON to the interpreter of `hub-tests env build vllm`")
    python, variables = find_interpreter("vllm", (), Path(PYTHON))
    log, isolation = tmp_path_factory.mktemp("vllm") / "engine.log", choose_isolation("auto")
    with open_consumer(
        "vllm", python=python, timeout=SECONDS, log=log, isolation=isolation, variables=variables
    ) as consumer:
        yield consumer


def make_reference(model: str, dtype: str, root: Path) -> ReferenceRun:
    checkpoint = build_served(model, root / "original", dtype=dtype)
    return ReferenceRun(checkpoint, TestParams(sequence_length=32), HuggingFace(), "cpu", root / "reference")


@pytest.mark.parametrize("name", FAULTS)
def test_vllm_shows_a_planted_fault(name: str, vllm: WorkerConsumer, tmp_path: Path) -> None:
    fault = FAULTS[name]
    reference = make_reference(fault.model, "float32", tmp_path)
    exported = plant_fault(fault, reference.checkpoint, tmp_path / "exported")
    (verdict,) = ServedExport(reference, vllm, exported, tmp_path / "work", policy="strict").check()
    assert not verdict.passed
    assert (verdict.failure_class == "export_incomplete") is fault.files, verdict.diagnosis


@pytest.mark.parametrize("model", ["llama", "mistral", "qwen2", "mixtral", "smollm2"])
def test_vllm_serves_an_export_of_the_same_bits_as_the_original(
    model: str, vllm: WorkerConsumer, tmp_path: Path
) -> None:
    reference = make_reference(model, "bfloat16", tmp_path)
    shutil.copytree(reference.checkpoint, tmp_path / "exported")
    for verdict in ServedExport(reference, vllm, tmp_path / "exported", tmp_path / "work", policy="strict").check():
        assert verdict.passed, verdict.diagnosis
        assert verdict.worst is not None
