"""Repair a store: move damaged checkpoints into the quarantine, and fetch them again.

A directory in the quarantine says by its name what is to be fetched, so a repair that was interrupted is finished by
the next one. After that it ends in `.repaired`, and `prune` removes it in time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.errors import HubTestsError
from ci.hub.checkpoint_files import find_content_problems
from ci.hub.code_files import fetch_code
from ci.hub.code_manifest import find_code_problems
from ci.hub.fetch import FetchRequest, fetch
from ci.hub.inventory import check_directory, list_code, list_directories, strip_unique
from ci.hub.manifest import RULES_VERSION
from ci.hub.store import Store
from ci.hub.store_paths import StorePaths, decode_model_id, parse_checkpoint_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci.hub.progress import Progress
    from ci.settings import Settings

REPAIRED = ".repaired"
RepairState = Literal["repaired", "failed", "not fetched again"]


@dataclass(frozen=True)
class Repair:
    """One damaged checkpoint: where it is now, what was wrong, and what came of fetching it again."""

    model_id: str
    path: str
    state: RepairState
    detail: str


def repair_store(settings: Settings, *, progress: Callable[[str, Progress], None] | None = None) -> tuple[Repair, ...]:
    """Verify the store, quarantine what is damaged, and fetch everything in the quarantine that is missing."""
    paths = StorePaths(settings.cache)
    problems = dict(_set_damaged_aside(paths))
    waiting = [path for path in list_directories(paths.quarantine, "*") if not path.name.endswith(REPAIRED)]
    repairs = [_fetch_again(path, problems.get(path.name, ""), settings, progress) for path in waiting]
    repairs += [_fetch_code_again(paths, path, settings) for path in list_code(paths) if find_code_problems(path)]
    stuck = [Repair("", name, "failed", problem) for name, problem in problems.items() if name.startswith("/")]
    return (*repairs, *stuck)


def _set_damaged_aside(paths: StorePaths) -> Iterator[tuple[str, str]]:
    """Move damaged checkpoints into the quarantine; yield their names there and first problems.

    What could not be moved is named by its whole path.
    """
    for path in list_directories(paths.checkpoints, "*/*"):
        inode = path.lstat().st_ino
        state, problems = check_directory(path, find_content_problems)
        if state != "damaged":
            continue
        moved = paths.set_aside(path, inode)
        if moved:
            yield moved.name, problems[0]
        elif path.exists():
            yield str(path.absolute()), f"{problems[0]}; cannot be moved: repair it on a machine that writes the store"


def _fetch_again(
    path: Path, problem: str, settings: Settings, progress: Callable[[str, Progress], None] | None
) -> Repair:
    name = strip_unique(path.name)
    parsed = parse_checkpoint_name(name)
    detail = problem or "damaged, set aside earlier"
    if parsed is None or parsed[1] != RULES_VERSION:
        _mark_repaired(path)
        return Repair(name, str(path), "not fetched again", f"{detail}; another version of hub-tests made it")
    key = parsed[0]
    layers = key.picked or key.layers
    request = FetchRequest(key.model_id, layers, key.commit, key.slice)
    tick = None if progress is None else lambda state: progress(key.model_id, state)
    try:
        if Store(settings.cache).find(key) is None:
            fetch(request, settings, progress=tick)
    except HubTestsError as error:
        return Repair(key.model_id, str(path), "failed", f"{detail}; {error}")
    return Repair(key.model_id, str(_mark_repaired(path)), "repaired", detail)


def _fetch_code_again(paths: StorePaths, path: Path, settings: Settings) -> Repair:
    """Fetch a model's own code again; what is damaged is replaced as a whole."""
    model_id, detail = decode_model_id(path.parent.name), find_code_problems(path)[0]
    try:
        fetch_code(model_id, path.name, settings)
    except HubTestsError as error:
        return Repair(model_id, str(path), "failed", f"{detail}; {error}")
    return Repair(model_id, str(paths.code_path(model_id, path.name)), "repaired", detail)


def _mark_repaired(path: Path) -> Path:
    with suppress(OSError):
        return path.rename(path.with_name(path.name + REPAIRED))
    return path
