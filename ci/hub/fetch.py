"""Hub to truncated checkpoint: the steps in order, over one frozen request. Prints nothing; progress is a callback.

A store that has the checkpoint answers alone: no request for a full commit, one for a branch. Else the revision is
pinned, config.json and the index decide what is kept, the headers of touched shards say where it is, its bytes go
straight to their places, the small files follow, and the manifest comes last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError, InfrastructureError, RequestError
from ci.hub.journal import has_parts
from ci.hub.layers import Auto
from ci.hub.listing import check_model_id, is_commit
from ci.hub.places import Key
from ci.hub.progress import Meter, Progress
from ci.hub.store import Partial, Store, unwritable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.hub.assemble import Upstream
    from ci.hub.listing import Repository
    from ci.hub.remote import Hub
    from ci.hub.weights import Selection
    from ci.settings import Settings

POLL = 0.5
ATTEMPTS = 3


@dataclass(frozen=True)
class FetchRequest:
    """Which model, at which revision (None: the default branch), and how many layers of it.

    `layers` is a count, or "auto" for the fewest layers that hold every kind of layer. `allow_remote_code` also
    fetches the repository's Python files; nothing here ever runs them.
    """

    model_id: str
    layers: int | Literal["auto"] = 2
    revision: str | None = None
    allow_remote_code: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A truncated checkpoint in the store.

    `revision` is the full commit, `layers` the count kept of `layers_upstream`. `bytes_kept` counts the tensors' bytes,
    `bytes_fetched` every body byte received, `requests` those sent to the Hub's own origin. `kinds_missed` names the
    kinds of layer that N = 2 would have missed (only when "auto" was asked for). `manifest_sha256` is the digest of
    `hub-tests.json`, which itself names every file's and every tensor's. `notes` are lines for people.
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


def fetch(
    request: FetchRequest, settings: Settings, *, progress: Callable[[Progress], None] | None = None
) -> Checkpoint:
    """The checkpoint that `request` asks for, from the store where it has it, else fetched into it.

    Raises RequestError when the request cannot be met as it stands (unknown or gated model, impossible count of layers,
    a config that cannot be truncated), InfrastructureError when Hub, network, disk or upstream's files fail.
    Whatever arrived before an error, or before Ctrl-C, is kept and continued from by the next call.
    """
    check_model_id(request.model_id)
    if request.layers != "auto" and request.layers < 1:
        raise RequestError(f"{request.model_id}: {request.layers} layers asked for, at least 1 is possible")
    return _Fetch(request, settings, progress).run()


class _Fetch:
    """One call of `fetch`: what is known so far, and the steps."""

    def __init__(self, request: FetchRequest, settings: Settings, progress: Callable[[Progress], None] | None) -> None:
        self.request, self.settings = request, settings
        self.store = Store(settings.cache)
        self.meter = Meter(request.model_id, progress)
        self.hub: Hub | None = None
        self.started = time.monotonic()

    def run(self) -> Checkpoint:
        commit = self._known_commit()
        if commit and (hit := self._hit(commit)):
            return hit
        if self.settings.offline:
            raise self._not_cached(commit)
        from ci.hub.remote import Hub

        self.meter("resolve")
        self.hub = Hub(self.settings)
        repository = self.hub.repository(self.request.model_id, self.request.revision)
        if is_commit(self.request.revision) and repository.commit != self.request.revision:
            raise InfrastructureError(
                f"{self.request.model_id}: asked for {commit}, the Hub answered {repository.commit}"
            )
        self.store.remember_ref(self.request.model_id, self.request.revision, repository.commit)
        if hit := self._hit(repository.commit):
            return hit
        return self._miss(self.hub, repository)

    def _miss(self, hub: Hub, repository: Repository) -> Checkpoint:
        from ci.hub import assemble

        request = self.request
        self.meter("headers")
        upstream = assemble.look_up(hub, repository, request.layers, allow_remote_code=request.allow_remote_code)
        if upstream.weights.pickled:
            wanted = Auto(0) if request.layers == "auto" else Auto(request.layers)
            return self._into_store(wanted, upstream, None)
        selection = assemble.select_tensors(upstream, request.layers)
        self._remember(repository.commit, selection.auto)
        hit = self._found(self._key(repository.commit, selection.auto), selection.auto, "hit")
        return hit or self._into_store(selection.auto, upstream, selection)

    def _into_store(self, auto: Auto, upstream: Upstream, selection: Selection | None) -> Checkpoint:
        """Fill a partial directory and make it the checkpoint, or take the one that another process made meanwhile."""
        self.store.prepare()
        key = self._key(upstream.repository.commit, auto)
        attempts = 0
        while attempts < ATTEMPTS:
            partial = self.store.begin(key)
            if partial is None:
                self.meter("wait")
                time.sleep(POLL)
                found = self._hit(key.commit)
            else:
                attempts += 1
                filled = self._fill(partial, upstream, selection)
                found = self._found(self._key(key.commit, filled), filled, "miss") if filled else self._hit(key.commit)
            if found:
                return found
        raise InfrastructureError(
            f"{self.store.path(key)}: vanished {ATTEMPTS} times while being fetched: who removes it?"
        )

    def _fill(self, partial: Partial, upstream: Upstream, selection: Selection | None) -> Auto | None:
        """One attempt; None when another process took the directory over, because this one seemed dead to it."""
        from ci.hub import assemble

        def tick(phase: str, done: int, total: int) -> None:
            self.meter(phase, done, total)
            partial.lease.beat()

        site = assemble.Site(partial.path, self.store.reserve, tick)
        try:
            if selection is None:
                selection = assemble.fill_from_pickled(upstream, self.request.layers, site)
                self._remember(upstream.repository.commit, selection.auto)
            else:
                assemble.fill(upstream, selection, site)
            self.store.finish(self._key(upstream.repository.commit, selection.auto), partial)
        except BaseException as problem:
            if isinstance(problem, HubTestsError | OSError) and not partial.path.exists():
                return None
            self.store.abandon(partial, keep=has_parts(partial.path))
            if isinstance(problem, OSError):
                raise unwritable(partial.path, problem) from None
            raise
        return selection.auto

    def _remember(self, commit: str, auto: Auto) -> None:
        if self.request.layers == "auto":
            self.store.remember_auto(self.request.model_id, commit, auto)

    def _known_commit(self) -> str | None:
        """The full commit, where it is known without asking the Hub."""
        if is_commit(self.request.revision):
            return self.request.revision
        return self.store.ref(self.request.model_id, self.request.revision) if self.settings.offline else None

    def _hit(self, commit: str) -> Checkpoint | None:
        layers = self.request.layers
        auto = self.store.auto(self.request.model_id, commit) if layers == "auto" else Auto(layers)
        return self._found(self._key(commit, auto), auto, "hit") if auto else None

    def _found(self, key: Key, auto: Auto, cache: Literal["hit", "miss"]) -> Checkpoint | None:
        """What the store has under `key`, held for this process."""
        found = self.store.find(key)
        if found is None:
            return None
        path, manifest, digest = found
        self.store.hold(path)
        self.meter("done", manifest.bytes_kept, manifest.bytes_kept)
        return Checkpoint(
            model_id=key.model_id,
            revision=key.commit,
            layers=key.layers,
            path=str(path),
            cache=cache,
            bytes_kept=manifest.bytes_kept,
            bytes_fetched=self.hub.received if self.hub else 0,
            requests=self.hub.requests if self.hub else 0,
            seconds=time.monotonic() - self.started,
            manifest_sha256=digest,
            layers_upstream=manifest.layers_upstream,
            kinds_missed=auto.kinds_missed,
            notes=manifest.notes,
        )

    def _key(self, commit: str, auto: Auto) -> Key:
        return Key(self.request.model_id, commit, auto.layers, self.request.allow_remote_code)

    def _not_cached(self, commit: str | None) -> InfrastructureError:
        name, layers, revision = self.request.model_id, self.request.layers, self.request.revision
        which = f"commit {commit[:8]}" if commit else f"revision {revision or 'HEAD'} was never asked for"
        return InfrastructureError(
            f"{name} with {layers} layers ({which}) is not in {self.store.root}, and HF_HUB_OFFLINE is set; fetch it "
            f"once where the Hub can be reached: hub-tests fetch {name} --layers {layers}"
        )
