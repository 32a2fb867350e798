"""A worker that runs other code than ours, once for each request; in a sandbox where one is asked for."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError
from ci.subjects.open_subject import open_subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.base import Subject

PRELUDE = """
import json, os, sys, threading, time
read, write = int(sys.argv[-2]), int(sys.argv[-1])
lines = os.fdopen(read)
def say(**answer):
    os.write(write, json.dumps({"id": request["id"], **answer}).encode() + b"\\n")
for line in lines:
    request = json.loads(line)
    if request["method"] == "variants":
        say(result=[])
        continue
"""


def wait_until(what: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until a condition holds; fail where it does not within a time that no machine needs."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_ended(process: str | int) -> bool:
    """Return whether a process is gone, or a zombie that nobody has reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def open_impostor(directory: Path, code: str, **rest: Any) -> Any:
    """Open a subject whose worker runs `code` for each request; asked for its variants, it has none."""
    for path in (directory, *directory.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)  # the sandbox's user enters
    script = directory / "interpreter" / "python"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!{sys.executable}\n{PRELUDE}{textwrap.indent(textwrap.dedent(code), '    ')}")
    script.chmod(0o755)
    return open_subject("reference", python=script, **{"timeout": 60.0, **rest})


DESCRIPTION: dict[str, Any] = {
    "subject": "x", "version": "1", "commit": None, "python": "3", "libraries": {}, "formats": ["llama"],
}  # fmt: skip
SINGLE_CALL = """
import ctypes, json, os, signal, subprocess, sys, time
read, write = int(sys.argv[-2]), int(sys.argv[-1])
request = json.loads(os.read(read, 1 << 20))
def say(**answer):
    os.write(write, json.dumps({"id": request["id"], **answer}).encode() + b"\\n")
"""
"""What a worker that answers one request begins with."""


def call_refused(opened: Any, call: Callable[[Subject], Any] = lambda subject: subject.describe()) -> tuple[str, str]:
    """Call an impostor; return class and message of the one-line error."""
    with opened as subject, pytest.raises(SubjectError) as error:
        call(subject)
    assert "\n" not in str(error.value)
    return error.value.failure, str(error.value)
