"""Writes and reads trace directories, for every subject and for the Hugging Face side.

The layout is the contract in `ci.subjects.base`. The writer keeps only names in memory; the reader opens a scope's file
only while its tensors are read.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ci.errors import InfrastructureError, RequestError, SubjectError
from ci.records import read_json, to_json
from ci.subjects.base import DType, TraceResult
from ci.tensor_names import is_scope, list_mandatory_tensors, scope_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

TRACE_JSON = "trace.json"


@dataclass
class TraceWriter:
    """Writes a trace directory scope by scope. Raises RequestError when `path` exists."""

    path: Path
    _names: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise RequestError(f"trace output {self.path} exists; name a directory that does not") from None
        except OSError as problem:
            raise InfrastructureError(f"trace output {self.path} cannot be made: {problem.strerror}") from None

    def write_scope(self, scope: str, tensors: Mapping[str, Tensor]) -> None:
        """Write one finished scope; its tensors are in execution order, on any device."""
        check_scope(scope, tensors)
        if scope in self._names:
            raise SubjectError(f"trace scope {scope!r} was already written")
        target = self.path / f"{scope}.safetensors"
        try:
            save_file(_make_storable(tensors), target)
        except (OSError, SafetensorError) as problem:
            raise InfrastructureError(f"{target} cannot be written: {problem}") from None
        self._names[scope] = tuple(tensors)

    @property
    def scopes(self) -> Mapping[str, tuple[str, ...]]:
        """The written scopes and the names in each, both in execution order."""
        return self._names

    def finish(
        self,
        *,
        ran: Mapping[str, str],
        dtype: DType,
        device: str,
        seconds: float,
        load_seconds: float = 0.0,
        peak_device_bytes: int = 0,
        not_captured: tuple[str, ...] = (),
        compile_seconds: float = 0.0,
    ) -> TraceResult:
        """Write `trace.json` by atomic rename. Raises SubjectError where a mandatory tensor is missing."""
        missing = [
            name for name in list_mandatory_tensors(self._names) if name not in self._names.get(scope_of(name), ())
        ]
        if missing:
            raise SubjectError(f"trace {self.path} is incomplete: the mandatory tensor {missing[0]!r} is missing")
        result = TraceResult(
            scopes=tuple(self._names),
            names=self._names,
            ran=dict(ran),
            dtype=dtype,
            device=device,
            seconds=seconds,
            load_seconds=load_seconds,
            peak_device_bytes=peak_device_bytes,
            not_captured=not_captured,
            compile_seconds=compile_seconds,
        )
        part = self.path / f".{TRACE_JSON}.part"
        try:
            part.write_text(to_json(result, indent=1), encoding="utf-8")
            part.replace(self.path / TRACE_JSON)
        except OSError as problem:
            raise InfrastructureError(f"{self.path / TRACE_JSON} cannot be written: {problem.strerror}") from None
        return result


@dataclass(frozen=True)
class TraceReader:
    """Reads a finished trace directory; raises SubjectError where it is absent, incomplete or damaged."""

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / TRACE_JSON).is_file():
            raise SubjectError(f"{self.path} is not a finished trace: it has no {TRACE_JSON}")

    @cached_property
    def result(self) -> TraceResult:
        """`trace.json`, validated (needs pydantic: the judge's process only)."""
        trace_json = self.path / TRACE_JSON
        result = read_json(TraceResult, trace_json.read_bytes(), what=str(trace_json), error=SubjectError)
        unknown = [name for name in (*result.scopes, *result.names) if not is_scope(name)]
        if unknown or set(result.scopes) != set(result.names):
            raise SubjectError(f"{trace_json}: scopes {unknown or list(result.scopes)} do not fit `names`")
        return result

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes in execution order."""
        return self.result.scopes

    def names(self, scope: str) -> tuple[str, ...]:
        """Return the names of a scope's tensors in execution order."""
        return tuple(self.result.names.get(scope, ()))

    def __iter__(self) -> Iterator[str]:
        """Yield every tensor name in execution order."""
        return (name for scope in self.scopes for name in self.names(scope))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.names(scope_of(name))

    def has_file(self, scope: str) -> bool:
        """Return whether a scope was written; it needs no `trace.json` to be validated."""
        return (self.path / f"{scope}.safetensors").is_file()

    def tensor(self, name: str, *, device: str = "cpu") -> Tensor:
        """Read one tensor from its scope's file; it is not kept here."""
        with self.open_scope(scope_of(name), device=device) as read:
            return read(name)

    @contextmanager
    def open_scope(self, scope: str, *, device: str = "cpu") -> Iterator[Callable[[str], Tensor]]:
        """Open a scope's file and give a function that reads a tensor by name.

        Opening a file costs as much as most comparisons, so it is done once a scope.
        """
        target = self.path / f"{scope}.safetensors"

        def read(name: str) -> Tensor:
            with _read_errors(target, name):
                tensor: Tensor = file.get_tensor(name)
                return tensor

        with _read_errors(target, scope):
            opened = safe_open(target, framework="pt", device=device)
        with opened as file:
            yield read


@contextmanager
def _read_errors(target: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as problem:
        raise SubjectError(f"{target}: {name!r} cannot be read: {problem}") from None


def check_scope(scope: str, names: Iterable[str]) -> None:
    """Raise SubjectError for an unknown scope, or for a tensor that belongs to another scope."""
    if not is_scope(scope):
        raise SubjectError(f"trace scope {scope!r} is unknown")
    if stray := [name for name in names if scope_of(name) != scope]:
        raise SubjectError(f"trace tensor {stray[0]!r} does not belong to scope {scope!r}")


def _make_storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors that share no memory (safetensors refuses views of one storage)."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        if plain.untyped_storage().nbytes() != plain.nbytes or plain.data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.data_ptr())
        stored[name] = plain
    return stored
