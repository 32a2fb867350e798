"""The suite's wall time against a bare script that makes the same forward passes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._figure import Figure, show
from benchmarks._recorder import TARGET
from ci.hub.fetch import FetchRequest, fetch
from ci.models import load_models
from ci.settings import Settings
from ci.subjects.base import ConvertRequest
from ci.subjects.memory import free_memory
from ci.subjects.reference.subject import ReferenceSubject
from ci.suite_process import PYTEST_ENVIRONMENT, PYTEST_PLUGINS
from tests.standin.library import add_generated, add_trained
from tests.standin.models import build_full_size
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from ci.models import HubModel

CHECKOUT = Path(__file__).parents[1]
SMALL = ("smollm2", "mixtral")
FULL_SIZE = "mistral"
NEEDED = 16 * 10**9
"""Bytes of memory for two layers of it in float64, with their traces."""


def figures() -> list[Figure]:
    """Measure the reference subject on SmolLM2, on the stand-in's small Mixtral and on Mistral-7B's shapes.

    Two layers each. The wider a model, the smaller the share of everything that is not a forward pass: each captured
    value costs a dot product as long as the width.
    """
    registry = load_models()
    with HubServer() as hub:
        add_trained(hub)
        add_generated(hub)
        measured = [_measure(hub, registry[name]) for name in SMALL]
    if free_memory("cpu") < NEEDED:
        print(f"suite: {FULL_SIZE} at full size not measured: {NEEDED / 1e9:.0f} GB must be free", file=sys.stderr)
        return measured
    with HubServer() as hub, tempfile.TemporaryDirectory() as scratch:
        model = registry[FULL_SIZE]
        hub.add(model.model_id, build_full_size(model.model_id.split("/")[1], Path(scratch) / FULL_SIZE, device="cpu"))
        return [*measured, _measure(hub, model)]


def _measure(hub: HubServer, model: HubModel) -> Figure:
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(cache=Path(scratch) / "store", endpoint=hub.endpoint)
        layers = model.num_layers_to_keep
        checkpoint = fetch(FetchRequest(model.model_id, layers), settings)
        forwards, converted = Path(scratch) / "forwards.json", Path(scratch) / "converted"
        request = ConvertRequest(checkpoint.path, str(converted), model.checkpoint_format, model.model_config)
        ReferenceSubject().convert(request)
        environ = {
            **PYTEST_ENVIRONMENT,
            "HF_ENDPOINT": hub.endpoint,
            "HUB_TESTS_CACHE": str(settings.cache),
            TARGET: str(forwards),
        }
        words = ["tests/integration", "--run-extra-slow", f"--hub-model={model.name}", "--subject=reference"]
        suite = _cost(["pytest", "-q", *PYTEST_PLUGINS, "-p", "benchmarks._recorder", *words], environ)
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        bare = _cost(["benchmarks._bare", str(forwards), checkpoint.path, str(converted)], quiet)
        passes = json.loads(forwards.read_text())
    calls = sum(len(one["shapes"]) for one in passes)
    how = (
        f"{model.name}, {layers} layers, {calls} forward passes: {suite.wall:.0f} s against {bare.wall:.0f} s; "
        f"of processor time {suite.cpu:.0f} s against {bare.cpu:.0f} s"
    )
    return Figure("suite's wall time ÷ bare forwards'", suite.wall / bare.wall, "≤", 1.3, how=how)


@dataclass(frozen=True)
class _Cost:
    """Seconds on the clock, and of processors (which a busy machine does not stretch)."""

    wall: float
    cpu: float


def _cost(module: list[str], environ: dict[str, str]) -> _Cost:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", *module]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=CHECKOUT, env={**os.environ, **environ})
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return _Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    sys.exit(show(figures()))
