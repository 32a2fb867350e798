"""The whole suite over a model that sees, as pytest runs it, with the reference as the subject."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.report.evidence_parser import parse_evidence
from ci.report.junit import read_junit
from tests.standin.models import repository

if TYPE_CHECKING:
    from tests.standin.server import HubServer

ROOT = Path(__file__).parents[3]
REGISTRY = """
[llava]
model_id = "stand-in/llava"
checkpoint_format = "llava"
model_config = "multimodal"
"""
TESTS = (
    *("download_and_truncate", "test_conversion", "forward_equivalence", "hub_model_conversion"),
    *("weight_liveness", "gradients"),
)

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("deep")]


def test_llava_is_judged_from_fetch_to_export(hub: HubServer, tmp_path: Path) -> None:
    """Fetch, conversion, images in the forward, gradients of the tower, the way back."""
    hub.add("stand-in/llava", repository("stand-in/llava"))
    (tmp_path / "models.toml").write_text(REGISTRY)
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HUB_TESTS_CACHE": str(tmp_path / "store")}
    environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["-m", "pytest", "tests/integration", "--run-extra-slow", "--deep", "--hub-model", "llava"]
    words += ["-k", " or ".join(TESTS), "--registry", str(tmp_path / "models.toml"), "--device", "cpu"]
    words += [f"--junitxml={tmp_path / 'junit.xml'}", "-q", "-p", "no:cacheprovider", "--subject", "reference"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    cases = read_junit(tmp_path / "junit.xml").cases
    evidence = {case.name.partition("[")[0]: parse_evidence(case.evidence or "") for case in cases}
    assert done.returncode == 0, done.stdout
    names = {f"test_{name.removeprefix('test_')}" for name in TESTS}
    assert {name: found.failure_class for name, found in evidence.items()} == dict.fromkeys(names)
    assert "batch: 5 images" in str(evidence["test_forward_equivalence"].coverage["images"])
    assert evidence["test_gradients"].figures["gradients.ratio"] < 10
