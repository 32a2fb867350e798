"""One worker process: how it is started, asked with a limit of time and size, and ended with all it started."""

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
from typing import Self

from ci.errors import InfrastructureError, RequestError
from ci.subjects import serve
from ci.subjects.base import SubjectName

LONGEST_ANSWER = 8 * 2**20
LOG_TAIL = 64 * 2**10
POLL_SECONDS = 0.2
GRACE_SECONDS = 2.0

ALLOWED = (
    *("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CC", "CXX"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_INTERPRET", "FAST_LLM_SKIP_TRITON_AUTOTUNE"),
)
"""The variables that a worker inherits. No token is among them, and HOME, where tokens lie in files, is its own."""

FIXED = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}


class Silence(Exception):  # noqa: N818 (an event, turned into an error by the worker)
    """No answer within the limit of time."""


class Answerless(Exception):  # noqa: N818
    """The process ended without an answer; says how."""


class Unbounded(Exception):  # noqa: N818
    """More came back than an answer may be."""


@dataclass(frozen=True)
class Launch:
    """What a worker is started from."""

    subject: SubjectName
    python: Path
    path: tuple[Path, ...]
    environ: Mapping[str, str] = field(repr=False)
    log: Path | None = None

    @property
    def server(self) -> Path:
        """The worker's program: a checkout of the reference brings its own, any other subject gets this package's."""
        brought = [entry.absolute() / "ci/subjects/serve.py" for entry in self.path if self.subject == "reference"]
        return next((program for program in brought if program.is_file()), Path(serve.__file__))

    def environment(self, home: Path) -> dict[str, str]:
        """The worker's whole environment."""
        kept = {name: self.environ[name] for name in ALLOWED if name in self.environ}
        path = os.pathsep.join(str(entry.absolute()) for entry in self.path)
        return {**kept, **FIXED, "HOME": str(home), **({"PYTHONPATH": path} if path else {})}


@dataclass
class Process:
    """A running worker, its two pipes and its log."""

    log: Path
    _popen: subprocess.Popen[bytes]
    _requests: int
    _answers: int
    _log_start: int

    @classmethod
    def start(cls, launch: Launch, home: Path) -> Self:
        """Start `serve.py` in the subject's interpreter, as the leader of a process group of its own."""
        read_request, write_request = os.pipe()
        read_answer, write_answer = os.pipe()
        log = launch.log or Path(tempfile.mkstemp(prefix="worker.", suffix=".log", dir=home)[1])
        command = [str(launch.python), "-P", str(launch.server), launch.subject, str(read_request), str(write_answer)]
        try:
            popen, log_start = _spawn(command, launch.environment(home), log, (read_request, write_answer))
        except BaseException:
            os.close(write_request)
            os.close(read_answer)
            raise
        finally:
            os.close(read_request)
            os.close(write_answer)
        return cls(log, popen, write_request, read_answer, log_start)

    def ask(self, line: bytes, seconds: float) -> bytes:
        """Send one line and return the one that comes back. Raises Silence, Answerless or Unbounded."""
        deadline = time.monotonic() + seconds
        with suppress(BrokenPipeError):  # the reading below says how it died
            os.write(self._requests, line + b"\n")
        answer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                answer += self._next(selector, deadline)
                if len(answer) > LONGEST_ANSWER:
                    raise Unbounded(f"its answer is longer than {LONGEST_ANSWER} bytes")
        if answer.count(b"\n") > 1:
            raise Unbounded("it gave several answers to one request")
        return bytes(answer)

    def end(self) -> str:
        """Kill the whole process group, close the pipes and return the last line that was printed."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for descriptor in (self._requests, self._answers):
            os.close(descriptor)
        return self._last_line()

    def _next(self, selector: selectors.BaseSelector, deadline: float) -> bytes:
        """Some bytes of the answer. The process is watched too: its children may hold the pipe open after its death."""
        while True:
            dead = self._popen.poll() is not None
            if selector.select(0 if dead else POLL_SECONDS):
                if read := os.read(self._answers, 65536):
                    return read
                raise Answerless(self._death())
            if dead:
                raise Answerless(self._death())
            if time.monotonic() > deadline:
                raise Silence

    def _death(self) -> str:
        try:
            code = self._popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its pipe without an answer"
        if code >= 0:
            return f"exited with code {code} without an answer"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", likely for want of memory" if name == "SIGKILL" else "")

    def _last_line(self) -> str:
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "")


def _spawn(
    command: list[str], environment: dict[str, str], log: Path, descriptors: tuple[int, int]
) -> tuple[subprocess.Popen[bytes], int]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            start = output.tell()
            popen = subprocess.Popen(  # noqa: S603 (the interpreter is the user's choice)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=descriptors,
                start_new_session=True,
            )
            return popen, start
    except (FileNotFoundError, PermissionError) as problem:
        raise RequestError(f"cannot start the subject's interpreter: {problem.filename}: {problem.strerror}") from None
    except OSError as problem:
        raise InfrastructureError(f"cannot start the subject's interpreter {command[0]}: {problem}") from None
