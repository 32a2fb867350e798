"""The one line that runs a failing test again. It is pasted into shells, so hostile text never gets into it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ci.plan import Plan
    from ci.report.outcome import CaseResult

_DEVICE = re.compile(r"cpu|cuda")


def reproduce(plan: Plan, entry: str, case: CaseResult) -> str:
    """`hub-tests run …` for the entry, from the plan; only the device is taken from the evidence, checked.

    The line that the test itself offered is not used: it comes out of the pull request's job.
    """
    known = plan.entry(entry)
    layers = known.model.num_layers_to_keep if known else None
    words = ["hub-tests run", entry]
    words += [f"--layers {layers}"] if layers is not None else []
    words += [f"--subject {plan.request.subject}"]
    evidence = case.evidence
    if evidence is not None and _DEVICE.fullmatch(evidence.device):
        words.append(f"--device {evidence.device}")
    words += ["--deep"] if plan.request.deep else []
    return " ".join([*words, *map(shlex.quote, plan.request.options)])
