"""Prune a remote store by age and size: what goes, what stays, and why.

A place that fsspec reaches has no leases and no times of use. The time of a checkpoint's manifest stands for both: its
fetch job writes the manifest last, and writes it again at a later hit (`RemoteStore.renew`). A workflow run lasts a day
at most, so what was fetched within the last day may be in use by its test jobs and stays. Times are those that the
place gives to its files, compared with the time that it gives to a new one.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.hub.inventory import StoreEntry
from ci.hub.lease import RUN_TIMEOUT
from ci.hub.manifest import MANIFEST
from ci.hub.prune import PruneClock, PruneRequest, decide_all, show_decision
from ci.hub.repository import is_commit
from ci.hub.store_paths import CODE_MANIFEST, decode_model_id, parse_checkpoint_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.hub.remote_store import RemoteFileState, RemoteStore

HOLDER = "a run that began less than a day ago, perhaps"


def list_remote_entries(remote: RemoteStore, now: float | None = None) -> tuple[StoreEntry, ...]:
    """List the checkpoints and the code of a remote store, and uploads that did not end; other files are no part of it.

    `now` is the place's time in seconds since 1970; None: this machine's.
    """
    moment = now or time.time()
    checkpoints, code = (_group_files(remote.list_files(folder)) for folder in ("checkpoints", "code"))
    entries = [
        *(_describe(remote, name, files, moment) for name, files in sorted(checkpoints.items())),
        *(_describe_code(remote, name, files, moment) for name, files in sorted(code.items())),
    ]
    return tuple(entry for entry in entries if entry is not None)


def _group_files(listed: Mapping[str, RemoteFileState]) -> dict[str, dict[str, RemoteFileState]]:
    """Group the files of a folder by their directory, two levels down."""
    by_name: dict[str, dict[str, RemoteFileState]] = {}
    for path, state in listed.items():
        model, _, rest = path.partition("/")
        key, _, file = rest.partition("/")
        if file:
            by_name.setdefault(f"{model}/{key}", {})[file] = state
    return by_name


def prune_remote_store(remote: RemoteStore, request: PruneRequest) -> tuple[StoreEntry, ...]:
    """Remove checkpoints above a size or an age; return all, the removed ones with the state "removed".

    Raises RequestError for a grace period, which nothing there can announce; InfrastructureError when the place fails.
    """
    if request.grace:
        raise RequestError("cache prune: --grace is for a directory; a remote store always waits for a day")
    now = time.time() if request.dry_run else remote.read_clock()
    decisions = decide_all(list_remote_entries(remote, now), request, PruneClock(now, 0.0))
    for decision in decisions:
        if decision.action == "remove" and not request.dry_run:
            remote.remove(decision.entry.path)
    return tuple(show_decision(decision) for decision in decisions)


def _describe(remote: RemoteStore, name: str, files: Mapping[str, RemoteFileState], now: float) -> StoreEntry | None:
    """Describe one checkpoint; None for a directory whose name no checkpoint has."""
    parsed = parse_checkpoint_name(name.replace("/", "@"))
    if parsed is None:
        return None
    key = parsed[0]
    entry = _make_entry(f"{remote.url}/checkpoints/{name}", files, MANIFEST, now)
    return replace(entry, model_id=key.model_id, revision=key.commit, layers=key.layers)


def _describe_code(
    remote: RemoteStore, name: str, files: Mapping[str, RemoteFileState], now: float
) -> StoreEntry | None:
    """Describe the code of one model at a commit; None for a directory of another name."""
    model, _, commit = name.partition("/")
    if not is_commit(commit):
        return None
    entry = _make_entry(f"{remote.url}/code/{name}", files, CODE_MANIFEST, now)
    return replace(entry, model_id=decode_model_id(model), revision=commit, kind="code")


def _make_entry(path: str, files: Mapping[str, RemoteFileState], manifest: str, now: float) -> StoreEntry:
    written = files[manifest].modified if manifest in files else max(state.modified for state in files.values())
    in_use = now - written < RUN_TIMEOUT
    return StoreEntry(
        "",
        "",
        0,
        path,
        sum(state.size for state in files.values()),
        "complete" if manifest in files else "partial",
        written,
        in_use,
        holder=HOLDER if in_use else "",
    )
