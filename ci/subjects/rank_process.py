"""One rank: a process that runs one function, and leaves its result, its error and its stack in files.

A rank is a fork of a process that has imported everything (hundredths of a second), or, for CUDA, a new interpreter:
a CUDA context does not survive a fork (https://docs.pytorch.org/docs/stable/notes/multiprocessing.html).
Ranks find one another through a file (torch's FileStore), so no port is needed, and talk over loopback, which a
sandbox without a network has too.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import pickle
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.subjects.failure import classify_error, format_error
from ci.subjects.parent_death import end_with_parent
from ci.subjects.rank_failure import Frame, describe_place

Work = Callable[..., Any]

STACK_SIGNAL = signal.SIGUSR1
RANK_WORD = "rank"
LOOPBACK = "lo"
FAILED = 1


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that run the same function. `folder` is theirs alone and the same for all.

    A collective that waits longer than `collective_seconds` should raise, so that its rank can say where it was.
    """

    number: int
    count: int
    folder: Path
    collective_seconds: float

    @property
    def store(self) -> str:
        """The address by which the ranks find one another, for `init_method` of torch.distributed."""
        return f"file://{self.folder / 'store'}"

    def path(self, kind: str) -> Path:
        """Return the path of one of this rank's files: log, stack, error or result."""
        return self.folder / f"rank-{self.number}.{kind}"

    def make_variables(self) -> dict[str, str]:
        """Return the environment variables that torchrun sets, and those that keep the traffic on this machine."""
        number, count = str(self.number), str(self.count)
        names = {name for _, name in socket.if_nameindex()}
        interface = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK} if LOOPBACK in names else {}
        ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        same_hash = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}  # ranks may compare hashes of names
        return {**ranks, **same_hash, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **interface}


def fork_rank(rank: Rank, work: Work, arguments: tuple[Any, ...]) -> int:
    """Start a rank as a fork of this process and return its process number."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads; the rank uses none of them
        if pid := os.fork():
            return pid
    try:
        _prepare(rank, parent)
        with _answering_with_stack(rank):
            code = run_work(rank, work, arguments)
    except BaseException:
        traceback.print_exc()
        code = FAILED
    finally:
        os._exit(code if "code" in locals() else FAILED)  # never back into the caller's stack


def spawn_rank(rank: Rank, work: Work, arguments: tuple[Any, ...]) -> int:
    """Start a rank as a new interpreter and return its process number. `work` must be a module's own function."""
    call = (rank, work.__module__, work.__qualname__, arguments)
    rank.path("call").write_bytes(pickle.dumps(call))
    program = Path(__file__).with_name("worker_main.py")
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as above; the rank is another program at once
        if pid := os.fork():
            return pid
    try:
        _prepare(rank, parent)
        os.execv(sys.executable, [sys.executable, "-P", str(program), RANK_WORD, str(rank.path("call"))])  # noqa: S606
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(FAILED)


def run_call(call: Path) -> int:
    """Run what `spawn_rank` wrote, and return the exit code."""
    rank, module, name, arguments = pickle.loads(call.read_bytes())  # noqa: S301 (written by our own parent)
    with _answering_with_stack(rank):
        return run_work(rank, getattr(importlib.import_module(module), name), arguments)


def run_work(rank: Rank, work: Work, arguments: tuple[Any, ...]) -> int:
    """Call the function, write its result or its error to the rank's files, and return the exit code."""
    try:
        result = work(rank, *arguments)
        rank.path("result").write_bytes(pickle.dumps(result))
        return 0
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        rank.path("error").write_text(json.dumps(describe_error(error)), encoding="utf-8")
        return FAILED
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


def describe_error(error: BaseException) -> dict[str, str]:
    """Return an error's class, message and place as plain values."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = [
        Frame(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__)))
    ]
    return {"failure": classify_error(error), "message": format_error(error), "place": describe_place(frames)}


def _prepare(rank: Rank, parent: int) -> None:
    """Make the process a rank: it dies with its parent, prints to its own log and has its variables."""
    end_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(STACK_SIGNAL, signal.SIG_IGN)  # until the rank can answer it; that lasts over an exec
    log = os.open(rank.path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update(rank.make_variables())


@contextmanager
def _answering_with_stack(rank: Rank) -> Iterator[None]:
    """Write the stack when the parent asks for it and when a signal kills the rank. Use one thread.

    A fork has none of its parent's other threads, and the ranks share the machine's cores.
    """
    with rank.path("stack").open("w", encoding="utf-8") as stack:
        faulthandler.unregister(STACK_SIGNAL)  # what the parent registered would keep the ignored signal ignored
        faulthandler.register(STACK_SIGNAL, file=stack, all_threads=True)
        faulthandler.enable(file=stack, all_threads=True)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        yield
