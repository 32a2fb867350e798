"""Renders chat templates in a process of its own, with limits: a template is a program of whoever published it.

The process sees no network and no file but its own where there is a sandbox, and in any case it ends at a limit of
time, of memory and of what it writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar

from ci.errors import InfrastructureError, RequestError
from ci.judge_environment import find_system_program
from ci.records import STRICT, read_json
from ci.subjects.process_tree import start_tree
from ci.subjects.sandbox import SandboxPolicy, sandbox_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.chat_templates.conversations import Conversation
    from ci.chat_templates.engines import Engine
    from ci.subjects.sandbox import Isolation

SECONDS = 60.0
"""All renderings of both templates take about three seconds."""
MEMORY_BYTES = 2 * 2**30
ANSWER_BYTES = 128 * 2**20
TEMPORARY_BYTES = 64 * 2**20
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8", "USE_TORCH": "0"}


@dataclass(frozen=True)
class Template:
    """A chat template with the special tokens that it gets."""

    text: str
    tokens: dict[str, str]


@dataclass(frozen=True)
class Rendering:
    """One line of an engine: what a template made of a conversation, or how it refused. The first line names it."""

    __pydantic_config__: ClassVar[Any] = STRICT

    engine: str = ""
    index: int = -1
    side: int = -1
    text: str | None = None
    refusal: str = ""


@dataclass(frozen=True)
class EngineRun:
    """All that an engine said: its name, its renderings in order, and why it stopped early ("" where it did not)."""

    engine: str
    renderings: tuple[Rendering, ...] = ()
    problem: str = ""


def render_templates(
    engine: Engine,
    templates: Sequence[Template],
    conversations: Sequence[Conversation],
    isolation: Isolation,
    *,
    seconds: float = SECONDS,
) -> EngineRun:
    """Render each conversation with each template. A template's side is its number in `templates`."""
    if engine.absent:
        return EngineRun(engine.name, problem=engine.absent)
    sides = [{"side": i, "template": one.text, "tokens": one.tokens} for i, one in enumerate(templates)]
    request = {"templates": sides, "conversations": [asdict(one) for one in conversations]}
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as log:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        problem = _run_program(engine, asked, answers, log, isolation, seconds)
        answers.seek(0)
        return _read_answers(engine, answers, problem, len(templates) * len(conversations))


def _run_program(
    engine: Engine, asked: IO[bytes], answers: IO[bytes], log: IO[bytes], isolation: Isolation, seconds: float
) -> str:
    """Run the engine to its end or limit; return what went wrong, or ""."""
    descriptors = (asked.fileno(), answers.fileno())
    command = [*_limit_resources(seconds), *engine.words, *map(str, descriptors)]
    environment = {**ENVIRONMENT, "HOME": "/nonexistent"}

    def make_command(info: int | None) -> list[str]:
        if not isolation.applied:
            return command
        policy = SandboxPolicy(tuple(engine.readable), gpus=False, temporary_bytes=TEMPORARY_BYTES)
        return sandbox_command(isolation, policy, command, ENVIRONMENT, info=info)

    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        tree = start_tree(
            make_command, sandboxed=isolation.applied, environment=environment, output=log, descriptors=descriptors
        )
    except (OSError, InfrastructureError) as problem:
        return f"it cannot be started: {problem}"
    try:
        code = tree.popen.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"it did not end within {seconds:g} s"
    finally:
        tree.end()
    return f"it ended with code {code}: {_read_last_line(log)}" if code else ""


def _limit_resources(seconds: float) -> list[str]:
    """Limit memory, what is written, and processor time.

    The wall clock alone would not end many processes.
    """
    limits = {"data": MEMORY_BYTES, "fsize": ANSWER_BYTES, "cpu": int(seconds) + 1, "core": 0}
    return [find_system_program("prlimit"), *(f"--{name}={value}" for name, value in limits.items()), "--"]


def _read_last_line(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def _read_answers(engine: Engine, answers: IO[bytes], problem: str, expected: int) -> EngineRun:
    """Read the whole lines; the last one may be cut off where the engine was stopped."""
    renderings = []
    try:
        for line in answers.read(ANSWER_BYTES).split(b"\n")[:-1]:
            renderings.append(read_json(Rendering, line, what="an answer"))  # noqa: PERF401 (those before a bad one)
    except RequestError as invalid:
        problem = problem or str(invalid)
    name = renderings[0].engine if renderings else ""
    rendered = tuple(one for one in renderings[1:] if one.index >= 0)
    if len(rendered) != expected:
        problem = problem or f"it answered {len(rendered)} of {expected} times"
    return EngineRun(name[:120] or engine.name, rendered, problem)
