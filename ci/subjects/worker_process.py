"""One worker process: started, asked with a limit of time and size, and ended with everything that it started."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ci.errors import InfrastructureError, RequestError
from ci.judge_environment import LARGE_PAGES
from ci.subjects.compile_cache import INSIDE, VARIABLES, CompileCache
from ci.subjects.image_root import find_image_root, inside_path, read_image_variables, refuse_unsandboxed
from ci.subjects.process_tree import ProcessTree, start_tree
from ci.subjects.registry import find_adapter, find_offer
from ci.subjects.sandbox import (
    Isolation,
    SandboxPolicy,
    check_readable,
    interpreter_directories,
    sandbox_command,
    tool_directories,
)
from ci.subjects.worker_main import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.exchange import Exchange

WORKER_MAIN = Path("ci/subjects/worker_main.py")
"""The worker's program, in a checkout of this project."""

MAX_RESPONSE_BYTES = 8 * 2**20
LOG_TAIL_BYTES = 64 * 2**10
POLL_SECONDS = 0.2
WATCH_SECONDS = 2.0
"""How often the log is looked at while a response is awaited."""
MAX_LOG_BYTES = 2**28
SIGNAL_BASE = 128
"""bubblewrap exits with this and the number of the signal that ended the program inside, as a shell does."""
EXIT_SECONDS = 2.0
"""How long a process that closed its pipe may take to exit."""

INHERITED_VARIABLES = (
    *("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CC", "CXX"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_INTERPRET", "FAST_LLM_SKIP_TRITON_AUTOTUNE"),
)
"""The variables that a worker inherits. No token is among them. HOME, where files with tokens are, is its own."""

MACHINE_VARIABLES = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "CC", "CXX", "CUDA_HOME", "CUDA_PATH")
"""Those that name places of the machine, where a container image has others."""

CACHE_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Directories that a sandboxed worker does not see: it compiles into its own temporary directory."""

FIXED_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    **LARGE_PAGES,
}


NO_SANDBOX = Isolation(None, "not asked for")
"""What a caller gets that asks for no isolation: the worker runs as the caller does."""


class WorkerTimeout(Exception):  # noqa: N818 (the caller makes an error of ours from it)
    """No response within the limit of time."""


class WorkerDied(Exception):  # noqa: N818
    """The process ended without a response; the message says how."""


class InvalidResponse(Exception):  # noqa: N818
    """The response is too large, there are several, or the worker uses up a resource; the message says which."""


@dataclass(frozen=True)
class WorkerLaunch:
    """How a worker is started: its subject, interpreter, import path, environment, log and isolation.

    `readable` are directories that a sandboxed worker sees at their own paths: the checkpoint under test, say.
    `variables` are those of the subject's environment (`ci.environments.description` refuses dangerous names). Only a
    sandboxed worker gets a copy of the `compile_cache`. `main` is the program of a worker that runs no subject but what
    `subject` names there: an engine, say.
    """

    subject: str
    python: Path
    path: tuple[Path, ...]
    environ: Mapping[str, str] = field(repr=False)
    log: Path | None = None
    isolation: Isolation = NO_SANDBOX
    readable: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    compile_cache: CompileCache | None = None
    main: Path | None = None

    @property
    def program(self) -> Path:
        """The program to run: that of a checkout of this package where one is under test, else this package's own."""
        return self.main or find_program(self.subject, self.path)

    def __post_init__(self) -> None:
        """Raise RequestError for a checkout whose program cannot be run."""
        self.program  # noqa: B018 (finding it is the check)

    def make_environment(self, home: Path) -> dict[str, str]:
        """Return all environment variables of the worker."""
        inherited = {name: self.environ[name] for name in INHERITED_VARIABLES if name in self.environ}
        if root := find_image_root(self.python):
            inherited = {name: value for name, value in inherited.items() if name not in MACHINE_VARIABLES}
            inherited = {**read_image_variables(root), **inherited}
        path = os.pathsep.join(str(entry.absolute()) for entry in self.path)
        own = {**FIXED_VARIABLES, "HOME": str(home), **({"PYTHONPATH": path} if path else {})}
        return {**inherited, **self.variables, **own}

    def make_command(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], exchange: Exchange, info: int | None = None
    ) -> list[str]:
        """Return the command line of the worker, in its sandbox where there is one, which reports to `info`."""
        plugin = None if self.main else find_adapter(self.subject).plugin
        places = (plugin.location,) if plugin and plugin.location else ()
        words = (plugin.reference if plugin else self.subject, *arguments, *map(str, places))
        root = find_image_root(self.python)
        command = [inside_path(root, self.python) if root else str(self.python), "-P", str(self.program), *words]
        if not self.isolation.applied:
            refuse_unsandboxed(root, self.isolation.description)
            return command
        seen = (*interpreter_directories(self.python), *(entry.resolve() for entry in self.path), *self.readable)
        seen = (*seen, *(place.resolve() for place in places), *((PUBLISHED,) if plugin else ()))
        seen = (*seen, *(() if root else tool_directories(environment)))
        check_readable(self.isolation, seen)
        placed = ((exchange.compiled, INSIDE),) if exchange.compiled else ()
        policy = SandboxPolicy((*seen, self.program.parents[1], exchange.inbox), (exchange.outbox,), placed, root=root)
        inside = {name: value for name, value in environment.items() if name not in CACHE_VARIABLES}
        inside |= VARIABLES if placed else {}
        return sandbox_command(self.isolation, policy, command, inside, info=info)


@dataclass
class WorkerProcess:
    """A running worker, its two pipes and its log."""

    log: Path
    _tree: ProcessTree
    _requests: int
    _responses: int
    _log_start: int
    _watched_at: float = 0.0

    @classmethod
    def start(cls, launch: WorkerLaunch, home: Path, exchange: Exchange) -> Self:
        """Start the worker's program in the subject's interpreter, as the leader of a new process group."""
        read_request, write_request = os.pipe()
        read_response, write_response = os.pipe()
        log = launch.log or Path(tempfile.mkstemp(prefix="worker.", suffix=".log", dir=home)[1])
        try:
            environment = launch.make_environment(home)
            ends = (read_request, write_response)
            words = (str(read_request), str(write_response))
            tree, log_start = _spawn(
                lambda info: launch.make_command(words, environment, exchange, info), launch, environment, log, ends
            )
        except BaseException:
            os.close(write_request)
            os.close(read_response)
            raise
        finally:
            os.close(read_request)
            os.close(write_response)
        return cls(log, tree, write_request, read_response, log_start)

    def send_request(self, line: bytes) -> None:
        """Send one line, whose response must be read before the next one is sent."""
        with suppress(BrokenPipeError):  # reading the response says how it died
            os.write(self._requests, line + b"\n")

    def read_response(self, seconds: float) -> bytes:
        """Return the line that answers the last request. Raises WorkerTimeout, WorkerDied or InvalidResponse."""
        deadline = time.monotonic() + seconds
        response = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._responses, selectors.EVENT_READ)
            while not response.endswith(b"\n"):
                response += self._read_some(selector, deadline)
                if len(response) > MAX_RESPONSE_BYTES:
                    raise InvalidResponse(f"its response is longer than {MAX_RESPONSE_BYTES} bytes")
        if response.count(b"\n") > 1:
            raise InvalidResponse("it sent several responses to one request")
        return bytes(response)

    def end(self) -> bool:
        """Kill everything that runs, cut the log to its limit, and return whether all of it is gone.

        What was sent before can still be received.
        """
        gone = self._tree.end()
        self._limit_log()
        return gone

    def interrupt(self) -> None:
        """Kill everything that runs, without waiting for its end."""
        self._tree.interrupt()

    def kill(self) -> str:
        """Kill everything that runs, close the pipes and return the last line that was printed."""
        self.end()
        for descriptor in (self._requests, self._responses):
            os.close(descriptor)
        return self._read_last_line()

    def _read_some(self, selector: selectors.BaseSelector, deadline: float) -> bytes:
        """Read some bytes of the response.

        The process is watched too, because its children may hold the pipe open after it has died.
        """
        while True:
            dead = self._tree.popen.poll() is not None
            if selector.select(0 if dead else POLL_SECONDS):
                if read := os.read(self._responses, 65536):
                    return read
                raise WorkerDied(self._describe_death())
            if dead:
                raise WorkerDied(self._describe_death())
            if time.monotonic() > deadline:
                raise WorkerTimeout
            self._watch_log()

    def _watch_log(self) -> None:
        """Raise InvalidResponse where the worker prints without end."""
        if time.monotonic() - self._watched_at < WATCH_SECONDS:
            return
        self._watched_at = time.monotonic()
        if self.log.stat().st_size - self._log_start > MAX_LOG_BYTES:
            raise InvalidResponse(f"it printed more than {MAX_LOG_BYTES} bytes")

    def _describe_death(self) -> str:
        try:
            code = self._tree.popen.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe without a response"
        code = SIGNAL_BASE - code if code > SIGNAL_BASE else code
        if code >= 0:
            return f"exited with code {code} without a response"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", probably out of memory" if name == "SIGKILL" else "")

    def _limit_log(self) -> None:
        """Cut the log where the worker made it longer than allowed after it was last looked at."""
        if self.log.stat().st_size - self._log_start > MAX_LOG_BYTES:
            os.truncate(self.log, self._log_start + MAX_LOG_BYTES)

    def _read_last_line(self) -> str:
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")


def find_program(subject: str, path: tuple[Path, ...]) -> Path:
    """Return the program of the first checkout of this package in `path`, else this package's own.

    Raises RequestError for a checkout without the program, or with a link to one that is not in it: with our own,
    today's code would pass as the checkout's.
    """
    for entry in path if find_offer(subject).in_this_package else ():
        package = entry.absolute() / WORKER_MAIN.parts[0]
        if package.is_dir():
            program = entry.absolute() / WORKER_MAIN
            if not program.is_file():
                raise RequestError(
                    f"--subject-path {entry}: its {package.name}/ has no worker program ({WORKER_MAIN}), "
                    "so its code cannot be run; choose a commit that has this file"
                )
            if not program.resolve().is_relative_to(entry.resolve()):
                raise RequestError(
                    f"--subject-path {entry}: its {WORKER_MAIN} is a link that leads out of it, to other code; "
                    "choose a commit without that link"
                )
            return program
    return Path(__file__).with_name(WORKER_MAIN.name)


def _spawn(
    make_command: Callable[[int | None], list[str]],
    launch: WorkerLaunch,
    environment: dict[str, str],
    log: Path,
    descriptors: tuple[int, int],
) -> tuple[ProcessTree, int]:
    """Start a process that appends to `log`; also return where in the log it begins."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            start = output.tell()
            tree = start_tree(
                make_command,
                sandboxed=launch.isolation.applied,
                environment=environment,
                output=output,
                descriptors=descriptors,
            )
            return tree, start
    except (FileNotFoundError, PermissionError) as problem:
        raise RequestError(f"cannot start the subject's interpreter: {problem.filename}: {problem.strerror}") from None
    except OSError as problem:
        raise InfrastructureError(f"cannot start the subject's interpreter {launch.python}: {problem}") from None
