"""Keeps the host's own directories within their budgets. It plans first, and `--dry-run` prints the plan.

It never touches what a job may be using: slots that are not at rest keep their disks, the store is pruned only while no
job runs and none can start, the current runner stays. Nothing outside the host's own directories is ever deleted.
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
from hub_runner.examine import is_mounted
from hub_runner.state import Book, lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path  # noqa: TC004  a record that is never read back

    from hub_runner.config import Config
    from hub_runner.layout import Layout

AT_REST = ("free", "quarantined")
DAY = 86400.0
CACHE_TIMEOUT = 1500.0
DRAFT_AGE = DAY
"""Seconds after which a half-unpacked runner belongs to nobody."""


@dataclass(frozen=True)
class Removal:
    """One thing that is to go: where it is, its size in bytes, and why."""

    path: Path
    size: int
    why: str


def plan(config: Config, layout: Layout, *, now: float) -> tuple[Removal, ...]:
    """What is over budget, the store left aside."""
    return (
        *_runners(layout, config.janitor.runner_versions, now),
        *_logs(layout.logs, config, now),
        *_disks(config, layout),
    )


def _runners(layout: Layout, keep: int, now: float) -> Iterator[Removal]:
    """Versions beyond the newest few; the current one stays whatever its number. Drafts that nobody finished."""
    current = (layout.runners / "current").resolve()
    versions = [path for path in layout.runners.glob("[0-9]*") if path.is_dir() and not path.is_symlink()]
    newest_first = sorted(versions, key=lambda path: parse_version(path.name), reverse=True)
    for path in newest_first[keep:]:
        if path.resolve() != current:
            yield Removal(path, size_of(path), f"runner beyond the newest {keep}")
    for draft in layout.runners.glob(".[0-9]*"):
        if now - draft.lstat().st_mtime > DRAFT_AGE:
            yield Removal(draft, size_of(draft), "a runner that was never finished")


def _logs(logs: Path, config: Config, now: float) -> Iterator[Removal]:
    """Old logs, then the oldest until the rest fits."""
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


def _disks(config: Config, layout: Layout) -> Iterator[Removal]:
    """Disks of slots at rest (a machine that lost its power leaves one), and of slots that the file no longer has."""
    for image in sorted(layout.data.glob("slots/*/disk.img")):
        name = image.parent.name
        known = name.isdecimal() and int(name) < len(config.slots)
        resting = not known or Book(layout.state, int(name)).read().phase in AT_REST
        if resting and not is_mounted(image.parent / "disk"):
            yield Removal(image, image.stat().st_blocks * 512, f"disk of slot {name}, which runs nothing")


def size_of(path: Path) -> int:
    """Bytes on disk below `path`; links are not followed."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_blocks * 512
    return sum(each.lstat().st_blocks * 512 for each in path.rglob("*"))


def remove(removal: Removal) -> None:
    """Delete it. Raises InfrastructureError where that cannot be."""
    try:
        if removal.path.is_dir() and not removal.path.is_symlink():
            shutil.rmtree(removal.path)
        else:
            removal.path.unlink(missing_ok=True)
    except OSError as failure:
        raise InfrastructureError(f"{removal.path}: {failure.strerror}") from None


def prune_store(config: Config, layout: Layout, *, dry_run: bool) -> str:
    """Bring the store within its budget, unless a job is running: no slot can start one while this holds the lock."""
    store, budget = layout.root / config.runner.store.lstrip("/"), config.janitor.store_gib << 30
    with lock(layout.run / "store.lock", what="the store"):
        busy = [slot.index for slot in config.places if Book(layout.state, slot.index).read().phase not in AT_REST]
        total = sum(entry["bytes"] for entry in hub_tests_cache("ls", store))
        if total <= budget:
            return f"store: {total >> 20} MiB of {budget >> 20} MiB"
        if busy:
            return f"store: {(total - budget) >> 20} MiB over budget; deferred, slot {busy[0]} is in use"
        if dry_run:
            return f"store: {(total - budget) >> 20} MiB over budget, to be pruned"
        gone = [e for e in hub_tests_cache("prune", store, "--max-size", str(budget)) if e["state"] == "removed"]
    return f"store: pruned {len(gone)} checkpoints, {sum(entry['bytes'] for entry in gone) >> 20} MiB"


def hub_tests_cache(verb: str, store: Path, *more: str) -> list[dict[str, Any]]:
    """`hub-tests cache VERB`, which knows the store: its entries. Raises InfrastructureError."""
    command = [sys.executable, "-I", "-m", "ci", "cache", verb, "--json", "--cache", str(store), *more]
    try:
        answer = run_command(command, timeout=CACHE_TIMEOUT)
        entries: list[dict[str, Any]] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as failure:
        raise InfrastructureError(f"hub-tests cache {verb} {store}: {failure}") from None
    return entries
