"""What `hub-tests fetch` adds in Actions: outputs for the jobs that test, which no test can forge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from ci.github.actions import write_outputs
from ci.github.handover import deliver, pack
from ci.plan import matrix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ci.hub.fetch import Checkpoint
    from ci.plan import Plan


def hand_over(
    plan: Plan, had: Mapping[str, Checkpoint], failed: Mapping[str, Exception], *, store: Path, output: Path
) -> None:
    """The matrix of what can be tested, where its checkpoints are, and why the others are not there."""
    ready = replace(plan, entries=tuple(entry for entry in plan.entries if entry.name in had))
    moved = sum(checkpoint.bytes_fetched for checkpoint in had.values())
    write_outputs(
        output,
        {
            "matrix": json.dumps(matrix(ready)),
            "count": str(len(ready.entries)),
            "delivery": pack(deliver(had, failed, store)),
            "moved": str(moved),
        },
    )
