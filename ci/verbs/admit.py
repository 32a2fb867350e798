"""`hub-tests admit`: the last look before a subject's code runs: its commit, and every byte of the checkpoint."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError
from ci.github.handover import receive, write_entry
from ci.subjects.registry import SubjectName, find_offer

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.handover import Delivery
    from ci.plan import Plan


@dataclass(frozen=True)
class Admission:
    """What may run now: the entry, the commit checked out, and the files that pin `hub-tests run` to them.

    `path` goes onto the subject's import path: the checkout where the reference itself is under test, else "".
    """

    entry: str
    sha: str
    subject: SubjectName
    path: str
    checkpoints: str
    registry: str


def admit(plan: Plan, delivery: Delivery, entry: str, *, subject: Path, store: Path, out: Path) -> Admission:
    """Raises RequestError where the checkout is not the planned commit, InfrastructureError for the checkpoint."""
    sha = head_of(subject)
    if sha != plan.request.sha:
        raise RequestError(f"{subject}: is at {sha}, planned was {plan.request.sha}: nothing of it was run")
    checkpoints, registry = write_entry(plan, entry, receive(delivery, entry, store), out)
    name = plan.request.subject
    path = str(subject) if find_offer(name).in_this_package else ""
    return Admission(entry, sha, name, path, str(checkpoints), str(registry))


def head_of(checkout: Path) -> str:
    """The commit of a git checkout. No hook, filter or configuration of the checkout is used."""
    command = ["git", "-C", str(checkout), "-c", "core.fsmonitor=false", "rev-parse", "--verify", "HEAD^{commit}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise RequestError(f"{checkout}: no git checkout: {error.stderr.strip()[:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{checkout}: git does not answer: {error}") from None
    return found.stdout.strip()
