"""An overlay: one commit of the subject, built in a sandbox without network over a base environment."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ci.environments.base import BaseEnvironment
from ci.errors import InfrastructureError, RequestError
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError, to_one_line
from ci.subjects.sandbox import Isolation, SandboxPolicy, interpreter_directories, own_writable, sandbox_command

if TYPE_CHECKING:
    from collections.abc import Sequence

BUILD_SECONDS = 1800
PATH = "/usr/local/bin:/usr/bin:/bin"
PIP_INSTALL = (
    *("-m", "pip", "--isolated", "install", "--disable-pip-version-check", "--no-index", "--no-deps"),
    *("--no-build-isolation", "--no-warn-script-location"),
)
CAUSE = re.compile(r":\d+: (?:fatal )?error: |^\s*(?:\w+\.)*\w+(?:Error|Exception|Exit)\b")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "node_modules", "build", "*.egg-info")


@dataclass(frozen=True)
class Overlay:
    """An installed commit: `path` goes onto the import path of the base environment's interpreter."""

    base: BaseEnvironment
    path: Path
    log: Path


def build_overlay(base: BaseEnvironment, source: Path, target: Path, isolation: Isolation) -> Overlay:
    """Build the checkout `source` into the new directory `target`, and try the description's import.

    Neither network nor dependencies: the base environment has all that the build needs. Raises SubjectCrashError with
    the last line of the build where the subject's own build or import fails, SubjectTimeoutError after half an hour.
    """
    if not source.is_dir():
        raise RequestError(f"{source}: not a directory; expected a checkout of the subject")
    copy, site, log = target / "source", target / "site", target.with_name(f"{target.name}.log")
    try:
        shutil.copytree(source, copy, symlinks=True, ignore=LEFT_OUT)
        site.mkdir()
    except (OSError, shutil.Error) as problem:
        raise InfrastructureError(
            f"{target}: the checkout cannot be copied: {to_one_line(str(problem), 200)}"
        ) from None
    _give_away(isolation, target)
    description = base.manifest.description
    editable = description.install == "editable"
    where = ["--prefix", str(site), "--editable", str(copy)] if editable else ["--target", str(site), str(copy)]
    _run_inside(base, target, isolation, [*PIP_INSTALL, *where], log, "build")
    path = copy / description.import_path if editable else site
    if description.import_test:
        _run_inside(base, target, isolation, ["-c", description.import_test], log, "import", path=path)
    return Overlay(base, path, log)


def _run_inside(
    base: BaseEnvironment,
    target: Path,
    isolation: Isolation,
    arguments: Sequence[str],
    log: Path,
    what: str,
    *,
    path: Path | None = None,
) -> None:
    environment = {**base.manifest.description.environment, "PATH": f"{base.path}/bin:{PATH}", "LC_ALL": "C.UTF-8"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    command = [str(base.python), *(() if path else ("-I",)), *arguments]
    if isolation.applied:
        policy = SandboxPolicy(interpreter_directories(base.python), (target,), gpus=False)
        command = sandbox_command(isolation, policy, command, environment)
    with log.open("ab") as output:
        try:
            done = subprocess.run(  # noqa: S603
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=BUILD_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise SubjectTimeoutError(f"the subject's {what} took longer than {BUILD_SECONDS} s (log: {log})") from None
        except OSError as problem:
            raise InfrastructureError(f"the subject's {what} cannot be started: {problem}") from None
    if done.returncode:
        raise SubjectCrashError(f"the subject's {what} failed: {_cause_in(log)} (log: {log})")


def _cause_in(log: Path) -> str:
    """Find the line that says what went wrong: a compiler's, an exception's, else the last one about an error."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace")[-65536:].splitlines() if line.strip()]
    causes = [line for line in lines if CAUSE.search(line)]
    errors = [line for line in lines if "error" in line.lower()]
    return to_one_line(next(iter([*causes[:1], *errors[-1:], *lines[-1:]]), "no output"), 300)


def _give_away(isolation: Isolation, target: Path) -> None:
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            own_writable(isolation, path)
