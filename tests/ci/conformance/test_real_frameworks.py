"""The examples with the real frameworks, each in an environment of its own.

    HUB_TESTS_LITGPT_PYTHON=litgpt/bin/python HUB_TESTS_TORCHTITAN_PYTHON=titan/bin/python \
        pytest -m long tests/ci/conformance/test_real_frameworks.py

The first lines of each example say how its environment is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.subjects.described import format_described
from ci.subjects.registry import find_offer
from tests.standin.models import repository
from tests.standin.recipes import TINY_REGISTRY
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
FRAMEWORKS = {
    "litgpt": "litgpt_adapter.py:LitGPTSubject",
    "torchtitan": "torchtitan_adapter.py:TorchtitanSubject",
}
PYTHONS = {
    "litgpt": os.environ.get("HUB_TESTS_LITGPT_PYTHON"),
    "torchtitan": os.environ.get("HUB_TESTS_TORCHTITAN_PYTHON"),
}
REASONS = {
    "litgpt": "needs litgpt: set HUB_TESTS_LITGPT_PYTHON to the interpreter of its environment",
    "torchtitan": "needs torchtitan: set HUB_TESTS_TORCHTITAN_PYTHON to the interpreter of its environment",
}
pytestmark = [pytest.mark.long, pytest.mark.parametrize("name", FRAMEWORKS)]


@pytest.fixture
def python(name: str) -> str:
    if not (found := PYTHONS[name]):
        pytest.skip(REASONS[name])
    return found


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("stand-in/llama", repository("stand-in/llama"))
        yield server


def call(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    command = [sys.executable, "-m", "ci", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_conformance_suite_trusts_it(name: str, python: str) -> None:
    done = call("subject", "check", f"examples/{FRAMEWORKS[name]}", "--subject-python", python, "--json")
    assert done.stdout, done.stderr
    results = json.loads(done.stdout)
    assert done.returncode == 0, [result for result in results if result["passed"] is False]
    assert len([result for result in results if result["passed"]]) >= 5


def test_it_computes_what_hugging_face_computes_and_the_judge_never_imports_it(
    name: str, python: str, hub: HubServer, tmp_path: Path
) -> None:
    """By its description alone, as the workflow runs it."""
    file, _, attribute = FRAMEWORKS[name].partition(".py:")
    described, registry = tmp_path / "hub-subject.toml", tmp_path / "models.toml"
    offer = find_offer(f"{ROOT / 'examples' / file}.py:{attribute}")
    described.write_text(format_described(offer, f"{file}:{attribute}"))
    registry.write_text(TINY_REGISTRY)
    words = ["run", "tiny", "--registry", str(registry), "--report", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--subject", str(described), "--subject-python", python, "--subject-path", str(ROOT / "examples")]
    done = call(*words, HF_ENDPOINT=hub.endpoint, HUB_TESTS_CACHE=str(tmp_path / "store"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out/report.json").read_bytes())
    assert results["verdict"] == "passed"
    assert results["plan"]["request"]["subject"] == str(described)
