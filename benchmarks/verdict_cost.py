"""What a verdict with both tolerances costs, against a bare script with the same forward passes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._figure import Figure, show
from ci.hub.fetch import FetchRequest, fetch
from ci.models import load_models
from ci.settings import Settings
from ci.subjects.base import ConvertRequest
from ci.subjects.reference.subject import ReferenceSubject
from tests.standin.library import add_generated, add_trained
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from ci.models import HubModel

CHECKOUT = Path(__file__).parents[1]
MODELS = {"smollm2": 4, "mixtral": 2}
"""Registry entries and layers: SmolLM2 with its trained weights; the stand-in's small Mixtral."""
MINE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def figures() -> list[Figure]:
    """Compare the processor time of a verdict with that of the same forward passes.

    Each side has one thread.
    """
    registry = load_models()
    with HubServer() as hub, tempfile.TemporaryDirectory() as scratch:
        add_trained(hub)
        add_generated(hub)
        settings = Settings(cache=Path(scratch) / "store", endpoint=hub.endpoint)
        return [_measure(registry[name], layers, settings, Path(scratch) / name) for name, layers in MODELS.items()]


def _measure(model: HubModel, layers: int, settings: Settings, scratch: Path) -> Figure:
    scratch.mkdir()
    checkpoint = fetch(FetchRequest(model.model_id, layers), settings)
    converted, forwards = scratch / "converted", scratch / "forwards.json"
    ReferenceSubject().convert(ConvertRequest(checkpoint.path, str(converted), model.checkpoint_format))
    arguments = [str(forwards), checkpoint.path, str(converted)]
    ours, bare = _seconds("benchmarks._verdict", arguments), _seconds("benchmarks._bare", arguments)
    calls = sum(len(one["shapes"]) for one in json.loads(forwards.read_text()))
    how = f"{model.name}, {layers} layers, {calls} forward passes: {ours:.1f} s against {bare:.1f} s of processor time"
    return Figure("whole verdict ÷ bare forwards", ours / bare, "≤", 1.5, how=how)


def _seconds(module: str, arguments: list[str]) -> float:
    """Return the processor time of a child process, which hardly depends on other load."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=CHECKOUT, env={**os.environ, **MINE})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{module}: {time.perf_counter() - started:.1f} s on the clock", file=sys.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(show(figures()))
