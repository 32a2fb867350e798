"""Whether an interpreter starts where the subject will run: else a machine's fault would pass as the subject's."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.subjects.failure import to_one_line
from ci.subjects.image_root import find_image_root, inside_path, read_image_variables
from ci.subjects.interpreter_paths import list_interpreter_directories
from ci.subjects.sandbox import SandboxPolicy, check_readable, sandbox_command

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.sandbox import Isolation

SECONDS = 120
UNSTARTED = ("setpriv: failed to execute", "bwrap: execvp")
"""How the last line of a log begins where nothing was started; the program under test can print it too."""
NOTHING = ("-I", "-S", "-c", "")
"""Starts an interpreter with its standard library, and none of the installed packages."""


def check_interpreter_starts(python: Path, isolation: Isolation, said: str) -> None:
    """Start an interpreter alone where the last line `said` that nothing was started.

    Raises InfrastructureError where it does not start, RequestError where it may not be read.
    """
    if not isolation.applied or not said.startswith(UNSTARTED):
        return
    root, seen = find_image_root(python), list_interpreter_directories(python)
    check_readable(isolation, seen)
    variables = read_image_variables(root) if root else {"PATH": "/usr/bin:/bin"}
    program = inside_path(root, python) if root else str(python)
    policy = SandboxPolicy(seen, gpus=False, root=root)
    command = sandbox_command(isolation, policy, [program, *NOTHING], variables)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"{python}: does not start in the sandbox: {problem}") from None
    if done.returncode:
        reason = to_one_line(done.stderr.strip() or f"exit code {done.returncode}", 300)
        raise InfrastructureError(f"{python}: does not start in the sandbox: {reason}")
