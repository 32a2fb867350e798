"""Whether an interpreter starts where the subject will run: else a machine's fault would pass as the subject's."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.subjects.failure import to_one_line
from ci.subjects.image_root import find_image_root, inside_path, read_image_variables
from ci.subjects.sandbox import SandboxPolicy, check_readable, interpreter_directories, sandbox_command

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.sandbox import Isolation

SECONDS = 120
NOTHING = ("-I", "-S", "-c", "")
"""Starts an interpreter with its standard library, and none of the installed packages."""


def check_interpreter_starts(python: Path, isolation: Isolation) -> None:
    """Start an interpreter in the sandbox once, without any of the subject's code.

    Raises InfrastructureError with the reason where it does not start, RequestError where it may not be read.
    """
    if not isolation.applied:
        return
    root, seen = find_image_root(python), interpreter_directories(python)
    check_readable(isolation, seen)
    variables = read_image_variables(root) if root else {"PATH": "/usr/bin:/bin"}
    program = inside_path(root, python) if root else str(python)
    policy = SandboxPolicy(seen, gpus=False, root=root)
    try:
        command = sandbox_command(isolation, policy, [program, *NOTHING], variables)
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as problem:
        raise InfrastructureError(f"{python}: does not start in the sandbox: {problem}") from None
    if done.returncode:
        said = to_one_line(done.stderr.strip() or f"exit code {done.returncode}", 300)
        raise InfrastructureError(f"{python}: does not start in the sandbox: {said}")
