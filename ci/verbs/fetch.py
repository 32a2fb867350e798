"""`hub-tests fetch` in Actions: the job outputs for the jobs that test, which no test can forge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.github.actions import write_outputs
from ci.github.job_outputs import make_fetch_outputs, pack_record
from ci.hub.store import Store
from ci.plan import matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ci.hub.code_files import FetchedCode
    from ci.hub.fetch import Checkpoint
    from ci.plan import Plan


def hold_for_run(paths: Iterable[Path], run_id: int | None, *, store: Path) -> None:
    """Protect what was fetched from pruning until the test jobs of the run have ended."""
    for path in paths:
        if run_id is not None:
            Store(store).hold_for_run(path, str(run_id))


def write_fetch_outputs(
    plan: Plan,
    checkpoints: Mapping[str, Checkpoint],
    failures: Mapping[str, Exception],
    *,
    store: Path,
    output: Path,
    code: Mapping[str, FetchedCode] | None = None,
) -> None:
    """Write the matrix of entries to test, their checkpoints, and why others are missing."""
    moved = [checkpoint.bytes_fetched for checkpoint in checkpoints.values()]
    moved += [one.bytes_fetched for one in (code or {}).values()]
    ready = replace(plan, entries=tuple(entry for entry in plan.entries if entry.name in checkpoints))
    write_outputs(
        output,
        {
            "matrix": json.dumps(matrix(ready)),
            "count": str(len(ready.entries)),
            "delivery": pack_record(make_fetch_outputs(checkpoints, failures, store, code)),
            "moved": str(sum(moved)),
        },
    )
