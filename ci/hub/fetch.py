"""Fetch a truncated checkpoint from the Hub into the store: the steps in order.

Nothing is printed; progress goes to a callback. A checkpoint in the store is returned at once: with no request for a
full commit, with one for a branch. Otherwise the revision is pinned, config.json and the index decide what is kept, the
headers of the shards say where it is, the tensors are downloaded to their places, small files follow, and the manifest
is written last.
"""

from __future__ import annotations

import functools
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.errors import HubTestsError, InfrastructureError, RequestError
from ci.hub.journal import has_complete_pieces
from ci.hub.layers import LayerChoice, LayerRequest, format_layers, make_choice
from ci.hub.progress import ProgressMeter
from ci.hub.quantization import check_quantization
from ci.hub.read_through import find_stored
from ci.hub.repository import check_model_id, is_commit
from ci.hub.slices import WHOLE, Slice
from ci.hub.small_files import CONFIG
from ci.hub.store import PartialCheckpoint, Store, make_disk_error
from ci.hub.store_paths import CheckpointKey
from ci.hub.strict_json import parse_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.hub.progress import Progress
    from ci.hub.remote import HubClient
    from ci.hub.repository import Repository
    from ci.hub.weights import RemoteModel, TensorSelection
    from ci.settings import Settings

POLL_SECONDS = 0.5
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class FetchRequest:
    """The model, its revision (None: the default branch), and how many layers of it to keep.

    `layers` is a count, "auto" for the fewest layers that hold every kind of layer, or the indices of chosen layers.
    `slice` keeps only part of the vocabulary and of the experts. Python files of the repository are never fetched.
    `refuse_quantized` raises QuantizedError for weights that are codes, before any is downloaded where config.json or
    the headers say so.
    """

    model_id: str
    layers: LayerRequest = 2
    revision: str | None = None
    slice: Slice = WHOLE
    refuse_quantized: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A truncated checkpoint in the store.

    `revision` is the full commit, `layers` the count kept of `layers_upstream`. `bytes_kept` counts the bytes of the
    tensors, `bytes_fetched` every received body byte, `requests` those sent to the Hub's own origin. `kinds_missed`
    names the kinds of layer that two layers would have missed (only after "auto"). `manifest_sha256` is the digest of
    `hub-tests.json`, which names every file and tensor with its digest. `notes` are lines for people.
    `not_verified_upstream` are the upstream files that were compared with no digest of the Hub, because it publishes
    digests of whole files only and some of their bytes were left out. `dropped`, `picked` and `slice` are those of the
    manifest.
    """

    model_id: str
    revision: str
    layers: int
    path: str
    cache: Literal["hit", "miss"]
    bytes_kept: int
    bytes_fetched: int
    requests: int
    seconds: float
    manifest_sha256: str
    layers_upstream: int
    kinds_missed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_verified_upstream: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    picked: tuple[int, ...] = ()
    slice: Slice = WHOLE


def fetch(
    request: FetchRequest, settings: Settings, *, progress: Callable[[Progress], None] | None = None
) -> Checkpoint:
    """Return the requested checkpoint, from the store if it is there, otherwise from the Hub.

    Raises RequestError when the request cannot be met as it stands (unknown or gated model, impossible count of layers,
    a config that cannot be truncated), InfrastructureError when Hub, network, disk or upstream's files fail. Data that
    arrived before an error or Ctrl-C is kept, and the next call continues from it.
    """
    check_model_id(request.model_id)
    if isinstance(request.layers, int) and request.layers < 1:
        raise RequestError(f"{request.model_id}: {request.layers} layers asked for; ask for at least 1")
    return _FetchRun(request, settings, progress).run()


class _FetchRun:
    """One call of `fetch`."""

    def __init__(self, request: FetchRequest, settings: Settings, progress: Callable[[Progress], None] | None) -> None:
        self.request, self.settings = request, settings
        self.store = Store(settings.cache)
        self.meter = ProgressMeter(request.model_id, progress)
        self.hub: HubClient | None = None
        self.notes: list[str] = []
        self.started = time.monotonic()

    def run(self) -> Checkpoint:
        commit = self._find_known_commit()
        if commit and (cached := self._find_cached(commit)):
            return cached
        if self.settings.offline:
            raise self._make_offline_error(commit)
        from ci.hub.remote import HubClient

        self.meter.report("resolve")
        self.hub = HubClient(self.settings)
        repository = self._get_repository(self.hub)
        return self._find_cached(repository.commit) or self._fetch_from_hub(self.hub, repository)

    def _get_repository(self, hub: HubClient) -> Repository:
        model_id, revision = self.request.model_id, self.request.revision
        repository = hub.get_repository(model_id, revision)
        if repository.renamed_to:
            self.notes.append(f"the Hub has renamed {model_id} to {repository.renamed_to}: use the new name")
        self.store.save_commit(model_id, revision, repository.commit)
        return repository

    def _fetch_from_hub(self, hub: HubClient, repository: Repository) -> Checkpoint:
        from ci.hub.builder import inspect_model
        from ci.hub.weights import select_tensors

        request = self.request
        self.meter.report("headers")
        model = inspect_model(hub, repository, request.layers, request.slice)
        self._check_quantization(model.config.root.value, {}, repository.commit)
        if model.weights.is_torch_bin:
            # "auto" is known only after the download: until then the directory is named after 0 layers.
            unknown = LayerChoice(0) if request.layers == "auto" else make_choice(request.layers)
            return self._fetch_into_store(unknown, model, None)
        selection = select_tensors(model, request.layers)
        kept = {source.tensor.name: source.tensor.dtype for source in selection.sources}
        self._check_quantization(model.config.root.value, kept, repository.commit)
        self._save_choice(repository.commit, selection.choice)
        cached = self._open_cached(repository.commit, selection.choice, "hit")
        return cached or self._fetch_into_store(selection.choice, model, selection)

    def _fetch_into_store(
        self, choice: LayerChoice, model: RemoteModel, selection: TensorSelection | None
    ) -> Checkpoint:
        """Build the checkpoint in the store, or return the one that another process finished meanwhile."""
        self.store.create_directories()
        commit = model.repository.commit
        key = self._make_key(commit, choice)
        attempts = 0
        while attempts < MAX_ATTEMPTS:
            partial = self.store.claim_partial(key)
            if partial is None:
                self.meter.report("wait")
                time.sleep(POLL_SECONDS)
                checkpoint = self._find_cached(commit)
            else:
                attempts += 1
                built = self._build_once(partial, model, selection)
                checkpoint = self._open_cached(commit, built, "miss") if built else self._find_cached(commit)
            if checkpoint:
                return checkpoint
        raise InfrastructureError(
            f"{self.store.checkpoint_path(key)}: disappeared {MAX_ATTEMPTS} times during the fetch; "
            "find the process that removes it"
        )

    def _build_once(
        self, partial: PartialCheckpoint, model: RemoteModel, selection: TensorSelection | None
    ) -> LayerChoice | None:
        """Build once; return None when another process took the directory because this one seemed dead."""
        from ci.hub.builder import BuildTarget, build_checkpoint, build_from_torch_bin

        def on_progress(phase: str, done: int, total: int) -> None:
            self.meter.report(phase, done, total)
            partial.lease.renew()

        find_known = functools.partial(self.store.find_small_file, self.request.model_id)
        target = BuildTarget(partial.path, self.store.check_free_space, on_progress, find_known)
        try:
            if selection is None:
                selection = build_from_torch_bin(model, self.request.layers, target)
                self._save_choice(model.repository.commit, selection.choice)
            else:
                build_checkpoint(model, selection, target)
            self.store.finish(self._make_key(model.repository.commit, selection.choice), partial)
        except BaseException as problem:
            if isinstance(problem, HubTestsError | OSError) and not partial.path.exists():
                return None
            self.store.abandon(partial, keep=has_complete_pieces(partial.path))
            if isinstance(problem, OSError):
                raise make_disk_error(partial.path, problem) from None
            raise
        return selection.choice

    def _save_choice(self, commit: str, choice: LayerChoice) -> None:
        if self.request.layers == "auto":
            self.store.save_layer_choice(self.request.model_id, commit, choice)

    def _find_known_commit(self) -> str | None:
        """Return the full commit if it is known without a request to the Hub."""
        if is_commit(self.request.revision):
            return self.request.revision
        return self.store.find_commit(self.request.model_id, self.request.revision) if self.settings.offline else None

    def _find_cached(self, commit: str) -> Checkpoint | None:
        layers, model_id = self.request.layers, self.request.model_id
        choice = self.store.find_layer_choice(model_id, commit) if layers == "auto" else make_choice(layers)
        return self._open_cached(commit, choice, "hit") if choice else None

    def _open_cached(self, commit: str, choice: LayerChoice, cache: Literal["hit", "miss"]) -> Checkpoint | None:
        """Return the store's checkpoint and mark it as in use by this process."""
        stored = find_stored(self.store, self._make_key(commit, choice), self.settings, fetched=cache == "miss")
        if stored is None:
            return None
        manifest = stored.manifest
        config = parse_object((stored.path / CONFIG).read_bytes(), what=str(stored.path / CONFIG))
        self._check_quantization(config, {name: t.dtype for name, t in manifest.tensors.items()}, commit)
        self.meter.report("done", manifest.bytes_kept, manifest.bytes_kept)
        return Checkpoint(
            model_id=manifest.model_id,
            revision=commit,
            layers=choice.layers,
            path=str(stored.path),
            cache=cache,
            bytes_kept=manifest.bytes_kept,
            bytes_fetched=self.hub.received if self.hub else 0,
            requests=self.hub.requests if self.hub else 0,
            seconds=time.monotonic() - self.started,
            manifest_sha256=stored.manifest_sha256,
            layers_upstream=manifest.layers_upstream,
            kinds_missed=choice.kinds_missed,
            notes=(*manifest.notes, *self.notes),
            not_verified_upstream=manifest.not_verified_upstream,
            dropped=manifest.dropped,
            picked=manifest.picked,
            slice=manifest.slice,
        )

    def _check_quantization(self, config: Mapping[str, Any], tensors: Mapping[str, str], commit: str) -> None:
        """Raise QuantizedError for a request that wants plain weights and would get codes."""
        if self.request.refuse_quantized:
            check_quantization(config, tensors, what=f"{self.request.model_id}@{commit[:8]}")

    def _make_key(self, commit: str, choice: LayerChoice) -> CheckpointKey:
        request = self.request
        return CheckpointKey(request.model_id, commit, choice.layers, choice.picked, request.slice)

    def _make_offline_error(self, commit: str | None) -> InfrastructureError:
        name, layers, revision = self.request.model_id, format_layers(self.request.layers), self.request.revision
        detail = f"commit {commit[:8]}" if commit else f"revision {revision or 'HEAD'}, never fetched before"
        command = f"hub-tests fetch {name} --layers {layers}"
        command += f" --revision {shlex.quote(revision)}" if revision else ""
        command += f" --slice {self.request.slice}" if self.request.slice != WHOLE else ""
        return InfrastructureError(
            f"{name} with {layers} layers ({detail}) is not in {self.store.root}, and HF_HUB_OFFLINE is set; fetch it "
            f"once on a machine that reaches the Hub: {command}"
        )
