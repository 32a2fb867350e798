"""Prune a store: what goes, what stays, and why.

A checkpoint in use is never removed. Who can write the store shows its use by a lease. Who cannot (a read-only mount)
is given time: with a grace period, a first `prune` only announces what will go, and a later one removes it, when the
announcement is as old as the period and nobody used the checkpoint since. A reader that cannot keep an announced
checkpoint refuses it, so whoever reads one began before the announcement.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.errors import InfrastructureError
from ci.hub import inventory, lease
from ci.hub.inventory import StoreEntry
from ci.hub.store_paths import HOLD_SILENCE, HOLD_TIMEOUT, StorePaths
from ci.records import STRICT, read_json
from ci.units import format_age, format_size, parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

STALE_AFTER = 3 * 24 * 3600.0
"""Seconds after which nobody is expected to continue an interrupted fetch, or to look into the quarantine."""
SETTINGS = "store.json"
"""The operator's settings of a store, in its root."""
PRUNE_LEASE = "prune"
PRUNE_SILENCE = 60.0
Action = Literal["keep", "announce", "remove"]


@dataclass(frozen=True)
class PruneRequest:
    """What may go: the least recently used above `max_bytes`, and what was not used for `max_age` seconds.

    `grace` is in seconds; the store's own setting counts if it is longer. A dry run changes nothing.
    """

    max_bytes: int | None = None
    max_age: float | None = None
    grace: float = 0.0
    dry_run: bool = False


@dataclass(frozen=True)
class StoreSettings:
    """The content of `store.json`; `grace` like "24h"."""

    __pydantic_config__: ClassVar[Any] = STRICT

    grace: str = "0s"


@dataclass(frozen=True)
class Decision:
    """What happens to one entry, and why."""

    entry: StoreEntry
    action: Action
    reason: str


@dataclass(frozen=True)
class PruneClock:
    """The file server's time, the times of the announcements by path, and the grace period in seconds."""

    now: float
    grace: float
    announced: Mapping[str, float] = field(default_factory=dict)


def prune_entries(paths: StorePaths, request: PruneRequest) -> tuple[StoreEntry, ...]:
    """Remove and announce entries; return all, those with the state "removed" or "leaving".

    Raises InfrastructureError while another process prunes the same store.
    """
    if not paths.root.is_dir():
        return ()
    grace = max(request.grace, read_grace(paths))
    if request.dry_run:
        return tuple(show_decision(decision) for decision in _decide(paths, request, grace))
    with suppress(OSError):
        paths.leases.mkdir(exist_ok=True)
    own = _acquire_prune_lease(paths)
    try:
        results = tuple(_carry_out(paths, decision) for decision in _decide(paths, request, grace))
        lease.remove_expired(paths.leases, "*", timeout=HOLD_TIMEOUT, silence=HOLD_SILENCE)
        _remove_left_overs(paths)
    finally:
        own.release()
    return results


def decide_all(entries: Sequence[StoreEntry], request: PruneRequest, clock: PruneClock) -> list[Decision]:
    """Decide about each entry in the order of removal.

    Partial, quarantined and damaged ones come first, then the least recently used.
    """
    ordered = sorted(entries, key=lambda entry: (entry.state in ("complete", "incompatible"), entry.last_used))
    total = sum(entry.bytes for entry in ordered)
    decisions = []
    for entry in ordered:
        cause = _find_cause(entry, request, total, clock.now)
        decision = _decide_one(entry, cause, clock)
        if decision.action != "keep":
            total -= entry.bytes
        decisions.append(decision)
    return decisions


def is_announced(paths: StorePaths, path: Path) -> bool:
    """Return whether `prune` has announced a checkpoint's removal, and nobody used it since."""
    announced = _read_time(paths.announcement_path(path))
    used = _read_time(paths.manifest_path(path))
    return announced is not None and used is not None and used <= announced


def read_grace(paths: StorePaths) -> float:
    """Return the grace period of the store's own settings in seconds.

    Raises RequestError for a wrong file.
    """
    path = paths.root / SETTINGS
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0.0
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_duration(read_json(StoreSettings, content, what=str(path)).grace)


def _decide(paths: StorePaths, request: PruneRequest, grace: float) -> list[Decision]:
    entries = inventory.list_entries(paths)
    times = {entry.path: _read_time(paths.announcement_path(Path(entry.path))) for entry in entries}
    announced = {path: moment for path, moment in times.items() if moment is not None}
    return decide_all(entries, request, PruneClock(lease.read_clock(paths.leases), grace, announced))


def _find_cause(entry: StoreEntry, request: PruneRequest, total: int, now: float) -> str:
    """Return why an entry may go, "" if it may not."""
    age = max(0.0, now - entry.last_used)
    if entry.state in ("partial", "quarantined") and age > STALE_AFTER:
        what = "interrupted" if entry.state == "partial" else "set aside"
        return f"{what} {format_age(age)} ago, more than {format_age(STALE_AFTER)}"
    if request.max_age is not None and age > request.max_age:
        return f"not used for {format_age(age)}, more than {format_age(request.max_age)}"
    if request.max_bytes is not None and total > request.max_bytes:
        return f"the store has {format_size(total)}, more than {format_size(request.max_bytes)}"
    return ""


def _decide_one(entry: StoreEntry, cause: str, clock: PruneClock) -> Decision:
    if entry.in_use:
        return Decision(entry, "keep", f"in use by {entry.holder}")
    if not cause:
        return Decision(
            entry, "keep", f"within the limits, used {format_age(max(0.0, clock.now - entry.last_used))} ago"
        )
    if not clock.grace or entry.state in ("partial", "quarantined"):
        return Decision(entry, "remove", cause)
    announced = clock.announced.get(entry.path, 0.0)
    if announced < entry.last_used:
        return Decision(entry, "announce", f"{cause}; may go in {format_age(clock.grace)} unless it is used")
    left = announced + clock.grace - clock.now
    if left > 0:
        return Decision(entry, "announce", f"{cause}; announced, may go in {format_age(left)} unless it is used")
    return Decision(entry, "remove", f"{cause}; announced {format_age(clock.now - announced)} ago, not used since")


def _carry_out(paths: StorePaths, decision: Decision) -> StoreEntry:
    path = Path(decision.entry.path)
    announcement = paths.announcement_path(path)
    if decision.action == "announce":
        return _announce(announcement, decision)
    with suppress(OSError):
        announcement.unlink()
    if decision.action == "remove" and not paths.discard(path, unless_in_use=True):
        return replace(decision.entry, reason="taken into use, or not to be removed from here")
    if decision.action == "remove":
        with suppress(OSError):
            paths.verified_path(path).unlink()
    return show_decision(decision)


def _announce(announcement: Path, decision: Decision) -> StoreEntry:
    """Write an announcement, unless a valid one is there: its time begins the grace period."""
    moment = _read_time(announcement)
    if moment is None or moment < decision.entry.last_used:
        try:
            announcement.parent.mkdir(exist_ok=True)
            announcement.write_text("{}", encoding="ascii")
        except OSError as error:
            return replace(decision.entry, reason=f"its removal cannot be announced: {error.strerror}")
    return show_decision(decision)


def show_decision(decision: Decision) -> StoreEntry:
    """Return the entry of a decision with its reason, and with the state that it gets."""
    states: dict[Action, inventory.EntryState] = {"announce": "leaving", "remove": "removed"}
    return replace(decision.entry, state=states.get(decision.action, decision.entry.state), reason=decision.reason)


def _acquire_prune_lease(paths: StorePaths) -> lease.Lease:
    """Make this process the store's only one that prunes.

    One of two would remove what the other gives back.
    """
    try:
        own = lease.acquire(paths.leases, PRUNE_LEASE)
    except OSError as error:
        raise InfrastructureError(
            f"{paths.root}: cannot be pruned from here: {error.strerror}; prune on a machine that writes the store"
        ) from None
    for path in paths.leases.glob(f"{PRUNE_LEASE}.*.lease"):
        other = lease.find_holder(path, timeout=HOLD_TIMEOUT, silence=PRUNE_SILENCE) if path != own.path else None
        if other:
            own.release()
            raise InfrastructureError(f"{paths.root}: {other} prunes this store now; try again when it has ended")
    return own


def _remove_left_overs(paths: StorePaths) -> None:
    """Remove what an interrupted removal left, and announcements and records of what is gone."""
    for path in paths.trash.glob("*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in paths.code.glob("*/.*"):  # of a fetch that was killed
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE_AFTER:
                shutil.rmtree(path, ignore_errors=True)
    listed = (*inventory.list_directories(paths.checkpoints, "*/*"), *inventory.list_code(paths))
    alive = {paths.lease_name(path) for path in listed}
    for path in (*paths.leaving.glob("*.json"), *paths.verified.glob("*.json")):
        if path.stem not in alive:
            with suppress(OSError):
                path.unlink()


def _read_time(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None
