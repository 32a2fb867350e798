"""An overlay: one commit of the subject, built in a sandbox without network over a base environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ci.environments.description import EnvironmentDescription
from ci.errors import HubTestsError, InfrastructureError, RequestError
from ci.subjects.disk_watch import has_room
from ci.subjects.exchange import remove_tree
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError, to_one_line
from ci.subjects.image_root import find_image_root, inside_path, read_image_variables, refuse_unsandboxed
from ci.subjects.interpreter_paths import list_interpreter_directories
from ci.subjects.interpreter_probe import check_interpreter_starts
from ci.subjects.process_tree import ProcessTree, start_tree
from ci.subjects.sandbox import Isolation, SandboxPolicy, check_readable, make_accessible, sandbox_command

if TYPE_CHECKING:
    from collections.abc import Sequence


BUILD_SECONDS = 1800
POLL_SECONDS = 1.0
MAX_LOG_BYTES = 2**28
LOG_TAIL_BYTES = 2**16
PATH = "/usr/local/bin:/usr/bin:/bin"
PIP_INSTALL = (
    *("-m", "pip", "--isolated", "install", "--disable-pip-version-check", "--no-index", "--no-deps"),
    *("--no-build-isolation", "--no-warn-script-location"),
)
NO_DEBUG_INFO = "-g0"
"""Python's own flags ask for debug information, which takes a compiler a quarter of its time and changes no code.

setuptools appends CPPFLAGS to those flags, where CFLAGS would replace them.
"""
VERSIONS_FROM_GIT = dict.fromkeys(
    ("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION", "POETRY_DYNAMIC_VERSIONING_BYPASS"), "0.dev0"
)
"""A version for build backends that ask git for one, which is not copied: setuptools-scm, hatch-vcs, PDM and Poetry.

https://setuptools-scm.readthedocs.io/en/latest/overrides/, https://backend.pdm-project.org/metadata/ and
https://github.com/mtkennerly/poetry-dynamic-versioning
"""
IMPORTED = 77
RUN_IMPORT_TEST = f"import gc, sys; gc.disable(); exec(sys.argv[1]); sys.exit({IMPORTED})"
"""A process that only imports libraries has no garbage to look for.

The exit code says that the end was reached: a module may end the process with 0.
"""
CAUSE = re.compile(r":\d+: (?:fatal )?error: |^\s*(?:\w+\.)*\w+(?:Error|Exception|Exit)\b")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "node_modules", "*.egg-info")
BUILT_BY_SETUPTOOLS = re.compile(r"lib|lib\.\S+-\S+|temp\.\S+|bdist\.\S+|scripts-\S+")
"""What setuptools leaves in a directory `build`: of an earlier commit, perhaps."""
BUILT_BY_CMAKE = {"CMakeCache.txt", "CMakeFiles", "build.ninja", "meson-info"}
"""Where CMake or meson built, everything is output."""


@dataclass(frozen=True)
class Overlay:
    """An installed commit: `path` goes onto the import path of `python`, the base environment's interpreter."""

    python: Path
    path: Path
    log: Path


def build_overlay(
    python: Path, description: EnvironmentDescription, source: Path, target: Path, isolation: Isolation
) -> Overlay:
    """Build the checkout `source` into the new directory `target`, and try the description's import.

    It has neither network nor dependencies: `python`'s environment holds all that the build needs. Raises
    SubjectCrashError with the cause where the subject's own build or import fails, SubjectTimeoutError after half an
    hour, RequestError where the checkout is not there.
    """
    if not source.is_dir():
        raise RequestError(f"{source}: not a directory; expected a checkout of the subject")
    copy, site, log = target / "source", target / "site", target.with_name(f"{target.name}.log")
    try:
        shutil.copytree(source, copy, symlinks=True, ignore=partial(_leave_out, source))
        site.mkdir()
    except (OSError, shutil.Error) as problem:
        raise InfrastructureError(
            f"{target}: the checkout cannot be copied: {to_one_line(str(problem), 200)}"
        ) from None
    _give_away(isolation, target)
    build = _Build(python, description, target, isolation, log)
    editable = description.install == "editable"
    where = ["--prefix", str(site), "--editable", str(copy)] if editable else ["--target", str(site), str(copy)]
    build.run("build", [*PIP_INSTALL, *where])
    path = copy / description.import_path if editable else site
    if description.import_test:
        build.run("import", ["-c", RUN_IMPORT_TEST, description.import_test], path=path, done=IMPORTED)
    _check_installed(path, target)
    return Overlay(python, path, log)


def _leave_out(source: Path, directory: str, names: list[str]) -> set[str]:
    """Name what is not copied. A directory `build` may belong to the source; what a build left in it does not."""
    left = LEFT_OUT(directory, names)
    if Path(directory).name == "build" and Path(directory) != source and "__init__.py" not in names:
        left |= set(filter(BUILT_BY_SETUPTOOLS.fullmatch, names))
    if "build" in names and any(os.path.lexists(Path(directory, "build", name)) for name in BUILT_BY_CMAKE):
        left.add("build")
    return left


def _check_installed(path: Path, target: Path) -> None:
    """Raise SubjectCrashError where the build left no directory of its own: a link would show the worker its target."""
    if not os.path.realpath(path).startswith(os.path.realpath(target) + os.sep) or not path.is_dir():
        raise SubjectCrashError("the subject's build left no directory in the place of its installation")
    path.chmod(0o755)


@dataclass(frozen=True)
class _Build:
    """Runs the interpreter over an overlay's directory, in the sandbox where there is one."""

    python: Path
    description: EnvironmentDescription
    target: Path
    isolation: Isolation
    log: Path

    def run(self, what: str, arguments: Sequence[str], *, path: Path | None = None, done: int = 0) -> None:
        """Run the interpreter; `what` names the step in errors, `done` is the exit code of one that succeeded."""
        own, root = self.description.environment, find_image_root(self.python)
        program = inside_path(root, self.python) if root else str(self.python)
        environment = {
            **VERSIONS_FROM_GIT,
            **(read_image_variables(root) if root else {}),
            **own,
            "CPPFLAGS": f"{own.get('CPPFLAGS', '')} {NO_DEBUG_INFO}".strip(),
            "PATH": f"{Path(program).parent}:{PATH}",
            "LC_ALL": "C.UTF-8",
            **({"PYTHONPATH": str(path)} if path else {}),
        }
        command = [program, *(() if path else ("-I",)), *arguments]
        start = self.log.stat().st_size if self.log.is_file() else 0
        if (code := self._wait(what, command, environment)) != done:
            cause = _find_cause(self.log, start)
            if code == 0:
                cause = f"its process ended before the import was complete ({cause})"
            check_interpreter_starts(self.python, self.isolation, cause)
            raise SubjectCrashError(f"the subject's {what} failed: {cause} (exit code {code}, log: {self.log.name})")

    def _make_command(self, command: list[str], environment: dict[str, str], info: int | None) -> list[str]:
        root = find_image_root(self.python)
        if not self.isolation.applied:
            refuse_unsandboxed(root, self.isolation.description)
            return command
        seen = list_interpreter_directories(self.python)
        check_readable(self.isolation, seen)
        policy = SandboxPolicy(seen, (self.target,), gpus=False, root=root)
        return sandbox_command(self.isolation, policy, command, environment, info=info)

    def _wait(self, what: str, command: list[str], environment: dict[str, str]) -> int:
        """Wait for the end, and end what the program left running: it could still change what was built."""
        try:
            with self.log.open("ab") as output:
                tree = start_tree(
                    lambda info: self._make_command(command, environment, info),
                    sandboxed=self.isolation.applied,
                    environment=environment,
                    output=output,
                )
            try:
                code = self._watch(what, tree)
            finally:
                gone = tree.end()
            if not gone:
                raise SubjectCrashError(f"the subject's {what} left processes that cannot be ended")
            return code
        except OSError as problem:
            raise InfrastructureError(f"the subject's {what} cannot be started: {problem}") from None
        finally:
            if self.log.is_file() and self.log.stat().st_size > MAX_LOG_BYTES:
                os.truncate(self.log, MAX_LOG_BYTES)

    def _watch(self, what: str, tree: ProcessTree) -> int:
        """Wait for the end, within the limits of time and room."""
        deadline = time.monotonic() + BUILD_SECONDS
        while time.monotonic() < deadline:
            try:
                return tree.popen.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if self.log.stat().st_size > MAX_LOG_BYTES:
                    raise SubjectCrashError(f"the subject's {what} printed more than {MAX_LOG_BYTES} bytes") from None
                if not has_room(self.target):
                    raise self._blame_full_disk(what, tree) from None
        raise SubjectTimeoutError(f"the subject's {what} took longer than {BUILD_SECONDS} s (log: {self.log.name})")

    def _blame_full_disk(self, what: str, tree: ProcessTree) -> HubTestsError:
        """Return the failure of whoever filled the disk: the program, if there is room once its files are gone."""
        tree.end()
        remove_tree(self.target)
        if has_room(self.target.parent):
            return SubjectCrashError(f"the subject's {what} was ended when the disk was nearly full")
        return InfrastructureError(f"{self.target.parent}: its disk is nearly full: make room, or set TMPDIR")


def read_tail(log: Path, size: int) -> bytes:
    """Return the last `size` bytes of a log of any length."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        return file.read(size)


def _find_cause(log: Path, start: int = 0) -> str:
    """Find the line that says what went wrong: a compiler's, an exception's, else the last error.

    What stands before `start` belongs to an earlier step.
    """
    text = (
        read_tail(log, min(LOG_TAIL_BYTES, max(0, log.stat().st_size - start)))
        .replace(b"\0", b"")
        .decode("utf-8", "replace")
    )
    lines = [line for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if CAUSE.search(line)]
    errors = [line for line in lines if "error" in line.lower()]
    return to_one_line(next(iter([*causes[:1], *errors[-1:], *lines[-1:]]), "no output"), 300)


def _give_away(isolation: Isolation, target: Path) -> None:
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            make_accessible(isolation, path)
