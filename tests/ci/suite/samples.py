"""A model and what its pipeline is told, for the tests of this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.hub.fetch import Checkpoint
from ci.models import HubModel
from ci.run_options import RunOptions
from ci.settings import Settings
from ci.suite.model_run import ModelRun

if TYPE_CHECKING:
    from pathlib import Path

MODEL = HubModel("tiny", "o/n", "llama")
CHECKPOINT = Checkpoint("o/n", "f" * 40, 2, "/store/x", "hit", 10, 0, 0, 0.1, "a" * 64, 30)


def make_run(
    workdir: Path, model: HubModel = MODEL, *, subject: str = "reference", settings: Settings | None = None
) -> ModelRun:
    """Make the run of a model with a subject on the CPU; its store is `workdir` unless settings are given."""
    return ModelRun(model, RunOptions(subject=subject, device="cpu"), settings or Settings(cache=workdir), workdir)
