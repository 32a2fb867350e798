"""How a worker is started: its program, variables and command line, in its sandbox where there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.judge_environment import LARGE_PAGES
from ci.subjects.compile_cache import INSIDE, VARIABLES, CompileCache
from ci.subjects.image_root import find_image_root, inside_path, read_image_variables, refuse_unsandboxed
from ci.subjects.interpreter_paths import list_interpreter_directories, list_tool_directories
from ci.subjects.registry import find_adapter, find_offer
from ci.subjects.sandbox import NO_SANDBOX, Isolation, SandboxPolicy, check_readable, sandbox_command
from ci.subjects.worker_main import PUBLISHED

if TYPE_CHECKING:
    from ci.subjects.exchange import Exchange

WORKER_MAIN = Path("ci/subjects/worker_main.py")
"""The worker's program, in a checkout of this project."""
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
        seen = (*list_interpreter_directories(self.python), *(entry.resolve() for entry in self.path), *self.readable)
        seen = (*seen, *(place.resolve() for place in places), *((PUBLISHED,) if plugin else ()))
        seen = (*seen, *(() if root else list_tool_directories(environment)))
        check_readable(self.isolation, seen)
        placed = ((exchange.compiled, INSIDE),) if exchange.compiled else ()
        policy = SandboxPolicy((*seen, self.program.parents[1], exchange.inbox), (exchange.outbox,), placed, root=root)
        inside = {name: value for name, value in environment.items() if name not in CACHE_VARIABLES}
        inside |= VARIABLES if placed else {}
        return sandbox_command(self.isolation, policy, command, inside, info=info)


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
