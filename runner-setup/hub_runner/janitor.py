"""Keeps the host's own directories within their budgets. It plans first, and `--dry-run` prints the plan.

It never deletes what a job may use: slots that are not at rest keep their disks, the store is pruned only while no job
runs and none can start, and the current runner stays. Nothing outside the host's own directories is ever deleted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ci.doctor.host_checks import parse_version
from ci.doctor.probes import run_command
from ci.errors import InfrastructureError
from hub_runner.files import acquire_lock
from hub_runner.slot_checks import is_mounted
from hub_runner.slot_state import SlotStateFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path  # noqa: TC004  a record that is never read back

    from hub_runner.config import Config
    from hub_runner.layout import Layout

AT_REST = ("free", "quarantined")
DAY = 86400.0
CACHE_TIMEOUT = 1500.0
DRAFT_AGE = DAY
"""Seconds after which a half-unpacked runner is not in use by any update."""


@dataclass(frozen=True)
class Removal:
    """A file or directory to delete, its size in bytes, and the reason."""

    path: Path
    size: int
    why: str


def plan_removals(config: Config, layout: Layout, *, now: float) -> tuple[Removal, ...]:
    """List what is over budget, without the store."""
    return (
        *_plan_runners(layout, config.janitor.runner_versions, now),
        *_plan_logs(layout.logs, config, now),
        *_plan_disks(config, layout),
    )


def _plan_runners(layout: Layout, keep: int, now: float) -> Iterator[Removal]:
    """List versions older than the newest `keep`, without the current one, and unfinished downloads."""
    current = (layout.runners / "current").resolve()
    versions = [path for path in layout.runners.glob("[0-9]*") if path.is_dir() and not path.is_symlink()]
    newest_first = sorted(versions, key=lambda path: parse_version(path.name), reverse=True)
    for path in newest_first[keep:]:
        if path.resolve() != current:
            yield Removal(path, size_of(path), f"older than the newest {keep} runners")
    for draft in layout.runners.glob(".[0-9]*"):
        if now - draft.lstat().st_mtime > DRAFT_AGE:
            yield Removal(draft, size_of(draft), "a runner left by an update that did not finish")


def _plan_logs(logs: Path, config: Config, now: float) -> Iterator[Removal]:
    """List logs that are too old, then the oldest ones until the rest fits."""
    files = sorted((path for path in logs.glob("*/*") if path.is_file()), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files)
    for path in files:
        status = path.stat()
        days = (now - status.st_mtime) / DAY
        if days > config.janitor.logs_days:
            why = f"log of {days:.0f} days ago"
        elif total > config.janitor.logs_gib << 30:
            why = f"logs are over {config.janitor.logs_gib} GiB"
        else:
            return
        total -= status.st_size
        yield Removal(path, status.st_size, why)


def _plan_disks(config: Config, layout: Layout) -> Iterator[Removal]:
    """List disks of slots at rest and of slots that the config no longer has.

    A slot at rest has a disk when the machine lost its power during a job.
    """
    for image in sorted(layout.data.glob("slots/*/disk.img")):
        name = image.parent.name
        known = name.isdecimal() and int(name) < len(config.slots)
        at_rest = not known or SlotStateFile(layout.state, int(name)).read().phase in AT_REST
        if at_rest and not is_mounted(image.parent / "disk"):
            yield Removal(image, image.stat().st_blocks * 512, f"disk of slot {name}, which runs nothing")


def size_of(path: Path) -> int:
    """Return the bytes on disk of `path` and all below it; links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_blocks * 512
    return sum(each.lstat().st_blocks * 512 for each in path.rglob("*"))


def delete(removal: Removal) -> None:
    """Delete the file or directory. Raises InfrastructureError when that fails."""
    try:
        if removal.path.is_dir() and not removal.path.is_symlink():
            shutil.rmtree(removal.path)
        else:
            removal.path.unlink(missing_ok=True)
    except OSError as failure:
        raise InfrastructureError(f"{removal.path}: {failure.strerror}") from None


def prune_store(config: Config, layout: Layout, *, dry_run: bool) -> str:
    """Prune the store to its budget unless a job runs; return what was done.

    While this holds the lock, no slot can start a job.
    """
    store, budget = layout.root / config.runner.store.lstrip("/"), config.janitor.store_gib << 30
    with acquire_lock(layout.run / "store.lock", what="the store"):
        busy = [
            slot.index
            for slot in config.resolved_slots
            if SlotStateFile(layout.state, slot.index).read().phase not in AT_REST
        ]
        total = sum(entry["bytes"] for entry in run_cache_verb("ls", store))
        if total <= budget:
            return f"store: {total >> 20} MiB of {budget >> 20} MiB"
        if busy:
            return f"store: {(total - budget) >> 20} MiB over budget; deferred, slot {busy[0]} is in use"
        if dry_run:
            return f"store: {(total - budget) >> 20} MiB over budget, to be pruned"
        removed = [e for e in run_cache_verb("prune", store, "--max-size", str(budget)) if e["state"] == "removed"]
    return f"store: pruned {len(removed)} checkpoints, {sum(entry['bytes'] for entry in removed) >> 20} MiB"


def run_cache_verb(verb: str, store: Path, *more: str) -> list[dict[str, Any]]:
    """Run `hub-tests cache VERB` and return its entries. Raises InfrastructureError."""
    command = [sys.executable, "-I", "-m", "ci", "cache", verb, "--json", "--cache", str(store), *more]
    try:
        answer = run_command(command, timeout=CACHE_TIMEOUT)
        entries: list[dict[str, Any]] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"hub-tests cache {verb} {store}: {failure}") from None
    return entries
