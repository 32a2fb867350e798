"""The truncated Hugging Face checkpoint of one model: from the store, with plain weights where it had codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.checkpoints import fetch_own_code, make_fetch_request
from ci.errors import HubTestsError, InfrastructureError
from ci.hub.fetch import Checkpoint, fetch
from ci.models import override_part
from ci.suite.cached_step import CachedStep

if TYPE_CHECKING:
    from ci.suite.model_run import ModelRun

DEQUANTIZED = "its FP8 weights are written as bfloat16 before they are compared: code times the scale of its block"
"""The note of an entry that says how its weights are dequantised."""


class SourceCheckpoint:
    """Fetches and dequantises the checkpoint, each at most once.

    `fetched` is what an earlier fetch of this model gave: its checkpoint, or the error that ended it.
    """

    def __init__(self, run: ModelRun, fetched: Checkpoint | HubTestsError | None) -> None:
        """Fetch nothing yet."""
        self.own_code: Path | None = None
        self._run = run
        self._fetched = fetched
        self._fetch_step = CachedStep[Checkpoint]("test_download_and_truncate")
        self._dequantize_step = CachedStep[Path]("test_conversion")

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What was fetched; None before."""
        return self._fetch_step.value

    def find_early(self) -> Path | None:
        """Return the directory that an earlier fetch left, where it is there."""
        if isinstance(self._fetched, Checkpoint) and (path := Path(self._fetched.path)).is_dir():
            return path
        return None

    def fetch(self) -> Checkpoint:
        """Return the truncated checkpoint in the store; fetch it if it is missing."""
        return self._fetch_step.run(self._fetch)

    def find_directory(self) -> Path:
        """Return the directory that is converted and compared: the store's, or its copy with plain weights."""
        checkpoint = self.fetch()
        if not self._run.model.dequantize:
            return Path(checkpoint.path)
        return self._dequantize_step.run(lambda: self._dequantize(checkpoint))

    def _fetch(self) -> Checkpoint:
        run, pinned = self._run, self._fetched
        if isinstance(pinned, HubTestsError):
            raise pinned
        request = make_fetch_request(override_part(run.model, run.options.layers, run.options.slice))
        if pinned:
            layers = pinned.picked or pinned.layers
            request = replace(request, layers=layers, revision=pinned.revision, slice=pinned.slice)
        with run.clock.measure("fetch"):
            checkpoint = fetch(request, run.settings)
            self.own_code = fetch_own_code(run.model, run.settings)
        if pinned and pinned.manifest_sha256 != checkpoint.manifest_sha256:
            raise InfrastructureError(
                f"{run.model.name}: the stored checkpoint at {checkpoint.path} is not the one that was fetched for "
                f"this run (manifest {checkpoint.manifest_sha256[:12]}, expected {pinned.manifest_sha256[:12]}): "
                "fetch again"
            )
        return replace(checkpoint, notes=(*checkpoint.notes, DEQUANTIZED)) if run.model.dequantize else checkpoint

    def _dequantize(self, checkpoint: Checkpoint) -> Path:
        from ci.equivalence.dequantized_checkpoint import dequantize_checkpoint

        what = f"{checkpoint.model_id}@{checkpoint.revision[:8]}"
        with self._run.clock.measure("convert", "dequantise"):
            return dequantize_checkpoint(Path(checkpoint.path), self._run.workdir / "dequantized", what=what)
