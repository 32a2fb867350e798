"""The command that runs an entry again, made from the plan alone."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from ci.hub.layers import format_layers
from ci.hub.slices import WHOLE

if TYPE_CHECKING:
    from ci.plan import Plan
    from ci.report.results import CaseResult

_DEVICE = re.compile(r"cpu|cuda")


def format_reproduce_command(plan: Plan, entry: str, case: CaseResult) -> str:
    """Return the command `hub-tests run …` that runs the entry again.

    People paste it into a shell, so it is made from the plan, and not from the line that the test itself wrote (that
    comes from the pull request's job). Only the device comes from the evidence, and only if it is a known one.
    """
    planned = plan.entry(entry)
    layers = format_layers(planned.model.layer_request) if planned else None
    command = ["hub-tests run", entry]
    command += [f"--layers {layers}"] if layers is not None else []
    command += [f"--slice {planned.model.slice}"] if planned and planned.model.slice != WHOLE else []
    command += [f"--subject {shlex.quote(plan.adapter.file if plan.adapter else plan.request.subject)}"]
    evidence = case.evidence
    if evidence is not None and _DEVICE.fullmatch(evidence.device):
        command.append(f"--device {evidence.device}")
    command += ["--deep"] if plan.request.deep else []
    command += [f"--consumer={plan.request.consumer}"] if plan.request.consumer else []
    return " ".join([*command, *map(shlex.quote, plan.request.options)])
