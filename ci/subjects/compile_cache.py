"""A machine's compiled code of earlier runs, given to a worker as a private copy.

Only a run that is trusted adds to it: its subject is code of the default branch. What any other run compiles is removed
with its worker. Compiled code is code: it runs in the sandbox, as the subject, and this process never loads it.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ci.errors import RequestError
from ci.subjects.compile_key import CompileTarget, read_compile_target
from ci.subjects.compile_layers import (
    Layer,
    LayerError,
    list_layers,
    prune_layers,
    remove_layer,
    touch_layer,
    unpack_layer,
    write_layer,
)
from ci.subjects.disk_watch import RESERVED_BYTES
from ci.subjects.exchange import remove_tree
from ci.subjects.sandbox import Isolation, make_accessible

MAX_GIVEN_BYTES = 4 * 2**30
"""One worker's copy: the layers that were used last, as far as they fit."""

INSIDE = "/tmp/compiled"  # noqa: S108 (inside the sandbox, where /tmp is its own)
"""Where the worker sees its copy. Always there: Triton and Inductor write absolute paths into what they keep."""

VARIABLES = {
    "TORCHINDUCTOR_CACHE_DIR": f"{INSIDE}/inductor",
    "TRITON_CACHE_DIR": f"{INSIDE}/triton",
    "CUDA_CACHE_PATH": f"{INSIDE}/cuda",
    "TRITON_CACHE_AUTOTUNING": "1",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
    "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
    **dict.fromkeys(
        (
            "TORCHINDUCTOR_FX_GRAPH_REMOTE_CACHE",
            "TORCHINDUCTOR_AUTOGRAD_REMOTE_CACHE",
            "TORCHINDUCTOR_AUTOTUNE_REMOTE_CACHE",
            "TORCHINDUCTOR_BUNDLED_AUTOTUNE_REMOTE_CACHE",
        ),
        "0",
    ),
}
"""Set for a worker with a copy. TORCH_EXTENSIONS_DIR is left out: torch compares times there, not contents.

https://docs.pytorch.org/tutorials/recipes/torch_compile_caching_configuration_tutorial.html
"""


@dataclass(frozen=True)
class CompileCache:
    """The directory of a machine's compiled code; `fill` only where the subject's code is trusted."""

    root: Path
    fill: bool = False


def choose_compile_cache(root: Path | None, *, fill: bool) -> CompileCache | None:
    """Return the compile cache of a run. Raises RequestError where one shall be filled that is not named."""
    if root is None and fill:
        raise RequestError("--fill-compile-cache needs the directory to fill: add --compile-cache DIR")
    return CompileCache(root.absolute(), fill) if root else None


@dataclass
class CompiledCode:
    """One worker's private copy in `directory`, which is there for the worker to write even where nothing was given.

    `given` are the sizes of the files by name; `problems` says what could not be used or kept.
    """

    cache: CompileCache
    directory: Path
    isolation: Isolation
    target: CompileTarget
    layers: list[Layer] = field(default_factory=list)
    given: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    dropped: bool = False
    stale: bool = False
    crashed: bool = False

    @classmethod
    def prepare(cls, cache: CompileCache, python: Path, parent: Path, isolation: Isolation) -> CompiledCode:
        """Copy what is kept for the interpreter `python` and this machine into a new directory below `parent`."""
        started = time.monotonic()
        code = cls(cache, _make_directory(parent, isolation), isolation, read_compile_target(python))
        for layer in code._find_layers():
            code._unpack(layer)
        for layer in reversed(code.layers):  # the newest last
            touch_layer(layer)
        code.seconds = time.monotonic() - started
        return code

    @property
    def in_use(self) -> bool:
        """Whether the worker has code of earlier runs."""
        return bool(self.given) and not self.dropped

    @property
    def figures(self) -> dict[str, float]:
        """What the copy cost."""
        return {
            "compile_cache_files": float(len(self.given)),
            "compile_cache_bytes": float(sum(self.given.values())),
            "compile_cache_seconds": round(self.seconds, 3),
        }

    def drop(self) -> bool:
        """Empty the copy; return whether anything was in it.

        No process of the worker may be left.
        """
        if not self.in_use:
            return False
        self.dropped, self.crashed = True, False
        self._start_anew()
        return True

    def keep(self) -> Layer | None:
        """Keep what the ended worker compiled, where this run may and the worker never crashed.

        What was given and proved stale is removed. Problems are noted and never raised: a run does not fail by them.
        """
        if not self.cache.fill or self.crashed:
            return None
        for layer in self.layers if self.stale else ():
            remove_layer(layer)
        try:
            self.cache.root.mkdir(mode=0o755, parents=True, exist_ok=True)
            _check_permissions(self.cache.root)
            known = () if self.dropped else self.given.keys()
            kept = write_layer(self.directory, self.cache.root, self.target.key, known)
            prune_layers(self.cache.root)
            return kept
        except (LayerError, OSError) as problem:
            self.problems.append(f"not kept: {problem}")
            return None

    def describe(self) -> str:
        """Say in one line what was given and what became of it."""
        megabytes = sum(self.given.values()) / 2**20
        line = f"{len(self.given)} files ({megabytes:.1f} MiB) of {len(self.layers)} earlier runs"
        dropped = "; dropped after a failure" + (", which they had caused" if self.stale else "")
        return "; ".join([line + (dropped if self.dropped else ""), *self.problems])

    def _unpack(self, layer: Layer) -> None:
        """Unpack one layer.

        A damaged one is left out. Where one cannot be copied, the worker starts with nothing.
        """
        if sum(self.given.values()) + layer.size > MAX_GIVEN_BYTES:
            return
        if shutil.disk_usage(self.directory).free - layer.size < RESERVED_BYTES:
            self.problems.append(f"{layer.path}: {layer.size} bytes do not fit on the disk of {self.directory.parent}")
            return
        try:
            self.given |= unpack_layer(layer, self.directory, self.given.keys(), self._give)
            self.layers.append(layer)
        except LayerError as damaged:
            self.problems.append(str(damaged))
            if self.cache.fill:
                remove_layer(layer)
        except OSError as problem:
            self.problems.append(f"{layer.path}: cannot be copied: {problem.strerror}; no compiled code was used")
            self.given.clear()
            self.layers.clear()
            self._start_anew()

    def _find_layers(self) -> tuple[Layer, ...]:
        """List the layers that may be used; none where everybody may write to their directory."""
        try:
            _check_permissions(self.cache.root)
            return list_layers(self.cache.root, self.target.key)
        except FileNotFoundError:
            return ()
        except (LayerError, OSError) as problem:
            self.problems.append(f"not used: {problem}")
            return ()

    def _start_anew(self) -> None:
        remove_tree(self.directory)
        self.directory = _make_directory(self.directory.parent, self.isolation)

    def _give(self, path: Path) -> None:
        make_accessible(self.isolation, path)


def _make_directory(parent: Path, isolation: Isolation) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="compiled.", dir=parent))
    directory.chmod(0o755)
    make_accessible(isolation, directory)
    return directory


def _check_permissions(root: Path) -> None:
    if root.stat().st_mode & stat.S_IWOTH:
        raise LayerError(f"{root}: everybody may write there: chmod o-w {root}")
