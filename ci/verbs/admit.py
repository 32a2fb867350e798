"""`hub-tests admit`: the last check before a subject's code runs: its commit, and every byte of the checkpoint."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.checkpoints import check_own_code
from ci.errors import InfrastructureError, RequestError
from ci.github.job_outputs import verify_checkpoint, write_run_files
from ci.hub.checkpoint_files import show_name
from ci.hub.code_files import copy_code
from ci.hub.read_through import copy_from_remote
from ci.hub.remote_store import RemoteStore
from ci.hub.store import Store
from ci.hub.store_paths import StorePaths, parse_checkpoint_name
from ci.judge_environment import find_system_program, make_git_environment
from ci.subjects.registry import SubjectName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.github.job_outputs import FetchOutputs
    from ci.models import HubModel
    from ci.plan import Plan, PlannedEnvironment

GIT_TIMEOUT = 60
"""Seconds."""


@dataclass(frozen=True)
class Admission:
    """An entry that may run now: the commit that is checked out, and the files that pin `hub-tests run` to both.

    `environment` and `subject` are names that hub-tests knows, or files. So is `code_environment`, that of the model's
    own code, "" where it brings none.
    """

    entry: str
    sha: str
    subject: SubjectName
    checkpoints: str
    registry: str
    environment: str
    code_environment: str = ""


def admit_entry(
    plan: Plan,
    outputs: FetchOutputs,
    entry: str,
    *,
    subject: Path,
    store: Path,
    out: Path,
    environ: Mapping[str, str],
    store_url: str | None = None,
    run_id: int | None = None,
) -> Admission:
    """Check the commit of the checkout at `subject` and the checkpoint of `entry` in `store`.

    With `store_url` the checkpoint is copied from there first. Where the store can be written, the checkpoint is held
    for the run. Raises RequestError for another commit than the planned one, or for a model that runs code of its own,
    InfrastructureError for the checkpoint.
    """
    sha = read_head_commit(subject, environ)
    if sha != plan.request.sha:
        raise RequestError(f"{subject}: is at {sha}, the plan has {plan.request.sha}: nothing of it was run")
    if planned := plan.entry(entry):
        check_own_code(planned.model)
    if store_url:
        copy_planned_checkpoint(outputs, entry, store, store_url)
    checkpoint = verify_checkpoint(outputs, entry, store)
    held = [Path(checkpoint.path)]
    if planned and planned.model.code_revision:
        held.append(admit_code(outputs, planned.model, store, store_url))
    for path in held if run_id is not None else ():
        Store(store).hold_for_run(path, str(run_id))
    code = write_description(planned.code_environment, out) if planned and planned.code_environment else ""
    checkpoints, registry = write_run_files(plan, entry, checkpoint, out, code_environment=code)
    return Admission(
        entry,
        sha,
        write_adapter(plan, out),
        str(checkpoints),
        str(registry),
        write_environment(plan, out, entry),
        code,
    )


def admit_code(outputs: FetchOutputs, model: HubModel, store: Path, store_url: str | None) -> Path:
    """Return the directory with a model's own Python files, as the fetch job saw them.

    Raises InfrastructureError where this machine's store and the remote one have none with that digest.
    """
    digest = outputs.code.get(model.name)
    if digest is None:
        raise InfrastructureError(f"the Python files of '{model.name}': the fetch job has none in its outputs")
    return copy_code(model.model_id, model.code_revision, store, store_url, digest).path


def write_adapter(plan: Plan, out: Path) -> SubjectName:
    """Return the planned subject's name, or the file of its description below `out`."""
    if plan.adapter is None:
        return plan.request.subject
    out.mkdir(parents=True, exist_ok=True)
    path = out / "subject.toml"
    path.write_text(plan.adapter.text, encoding="utf-8")
    return str(path)


def write_environment(plan: Plan, out: Path, entry: str = "") -> str:
    """Return the environment in which an entry's subject is tested: its name, or the file of its description.

    The registry's word for the entry goes before that of the run, and the subject's own is the last.
    """
    planned = plan.entry(entry)
    own = (planned.environment if planned else None) or plan.environment
    return write_description(own, out) if own else plan.request.subject


def write_description(planned: PlannedEnvironment, out: Path) -> str:
    """Return an environment's name, or the file of its description, which is written below `out`."""
    if not planned.text:
        return planned.name
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{planned.name}.toml"
    path.write_text(planned.text, encoding="utf-8")
    return str(path)


def copy_planned_checkpoint(outputs: FetchOutputs, entry: str, store: Path, store_url: str) -> None:
    """Copy the checkpoint that `fetch` saw from a remote store, unless this machine has it.

    Raises InfrastructureError where the remote store has another one or none.
    """
    fetched = outputs.checkpoints.get(entry)
    if fetched is None:
        return  # `verify_checkpoint` says so
    parsed = parse_checkpoint_name("@".join(fetched.path.rsplit("/", 2)[-2:]))
    if parsed is None or fetched.path != StorePaths.relative_path(parsed[0]):
        raise RequestError(f"checkpoint of '{entry}': {show_name(fetched.path)} is no checkpoint of a store")
    stored = Store(store).find_verified(parsed[0])
    if stored is not None and stored.manifest_sha256 == fetched.manifest_sha256:
        return
    if stored is not None:
        Store(store).set_aside(stored)
    remote = RemoteStore(store_url)
    if copy_from_remote(Store(store), remote, parsed[0], fetched.manifest_sha256) is None:
        raise InfrastructureError(
            f"{remote.url}: has no checkpoint of '{entry}' with the manifest that was fetched; run the fetch job again"
        )


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
