"""`hub-tests admit`: the last check before a subject's code runs: its commit, and every byte of the checkpoint."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError, RequestError
from ci.github.job_outputs import verify_checkpoint, write_run_files
from ci.judge_environment import find_system_program, make_git_environment
from ci.subjects.registry import SubjectName, find_offer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ci.github.job_outputs import FetchOutputs
    from ci.plan import Plan

GIT_TIMEOUT = 60
"""Seconds."""


@dataclass(frozen=True)
class Admission:
    """An entry that may run now: the commit that is checked out, and the files that pin `hub-tests run` to both.

    `path` goes onto the subject's import path: the checkout if the reference itself is under test, else "".
    """

    entry: str
    sha: str
    subject: SubjectName
    path: str
    checkpoints: str
    registry: str


def admit_entry(
    plan: Plan,
    outputs: FetchOutputs,
    entry: str,
    *,
    subject: Path,
    store: Path,
    out: Path,
    environ: Mapping[str, str],
) -> Admission:
    """Check the commit of the checkout at `subject` and the checkpoint of `entry` in `store`.

    Raises RequestError for another commit than the planned one, InfrastructureError for the checkpoint.
    """
    sha = read_head_commit(subject, environ)
    if sha != plan.request.sha:
        raise RequestError(f"{subject}: is at {sha}, the plan has {plan.request.sha}: nothing of it was run")
    checkpoint = verify_checkpoint(outputs, entry, store)
    checkpoints, registry = write_run_files(plan, entry, checkpoint, out)
    name = plan.request.subject
    path = str(subject) if find_offer(name).in_this_package else ""
    return Admission(entry, sha, name, path, str(checkpoints), str(registry))


def read_head_commit(checkout: Path, environ: Mapping[str, str]) -> str:
    """Read the commit of a git checkout without using its hooks, filters or configuration."""
    git = find_system_program("git")
    command = [git, "-C", str(checkout), "-c", "core.fsmonitor=false", "rev-parse", "--verify", "HEAD^{commit}"]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            env=make_git_environment(environ),
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        raise RequestError(f"{checkout}: not a git checkout: {error.stderr.strip()[:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{checkout}: git does not answer: {error}") from None
    return done.stdout.strip()
