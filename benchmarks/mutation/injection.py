"""Planting a bug: patches on the reference subject's functions, or edits of what its conversion wrote.

A mutant behaves as the broken code would: the patched function runs in place of the right one for the length of a
call, and the edited directory is what a wrong conversion would have left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors.torch import load_file, save_file

from benchmarks.mutation.tiny_models import Specimen
from ci.subjects.reference.config import Architecture
from ci.subjects.reference.directories import METADATA, read_fast_llm
from ci.subjects.reference.metadata_yaml_write import write_base_model
from ci.subjects.reference.model import Model
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from torch import Tensor

    from ci.subjects.base import (
        ConvertRequest,
        ConvertResult,
        Description,
        ExportRequest,
        TraceRequest,
        TraceResult,
        Variant,
    )

HEAD = -1
"""The layer number while final norm and head run."""
Weights = dict[str, "Tensor"]
"""Fast-LLM's parameters by name, without the shard."""


class Current:
    """Which block runs now, on either side: patches that belong to one layer ask."""

    layer: int | None = None


@dataclass(frozen=True)
class Patch:
    """Replace the function `name` of `module` (or the entry `key` of the mapping of that name) by `make(original)`.

    `layer`: only while that block runs (HEAD: the head), else everywhere.
    """

    module: str
    name: str
    make: Callable[[Any], Any]
    key: str | None = None
    layer: int | None = None

    @contextmanager
    def planted(self) -> Iterator[None]:
        """In force for the length of the block."""
        owner: Any = import_module(self.module)
        holder = getattr(owner, self.name) if self.key else vars(owner)
        key = self.key or self.name
        original = holder[key]
        holder[key] = self._chosen(original)
        try:
            yield
        finally:
            holder[key] = original

    def _chosen(self, original: Any) -> Any:
        mutated = self.make(original)
        if self.layer is None:
            return mutated
        return lambda *args, **kwargs: (mutated if Current.layer == self.layer else original)(*args, **kwargs)


@dataclass(frozen=True)
class Mutation:
    """One planted bug. `where` is a pattern of the tensor that must be named as the first wrong one.

    A conversion mutant edits `weights` in place or replaces the `architecture`; a kernel mutant has `patches`, and
    `ports` name the functions to transplant into Hugging Face to plant it there too. `lossy`: the way back cannot
    undo it, so that a round trip sees it. `fits` says for which specimens it is a bug at all.
    """

    name: str
    bug_class: str
    where: str
    weights: Callable[[Weights, Architecture], None] | None = None
    architecture: Callable[[Architecture], Architecture] | None = None
    patches: tuple[Patch, ...] = ()
    ports: tuple[str, ...] = ()
    fits: Callable[[Specimen], bool] = lambda _: True
    lossy: bool = False
    variant: Mapping[str, str] = field(default_factory=dict)
    low_precision: bool = False

    @property
    def half(self) -> str:
        """Which half the bug is in."""
        return "kernel" if self.patches else "conversion"

    def is_at(self, tensor: str) -> bool:
        """Whether a tensor named as the first wrong one is the right place."""
        return re.fullmatch(self.where, tensor) is not None

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The kernel's patches in force; nothing for a conversion mutant."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch.planted())
            yield

    def edit(self, directory: Path) -> None:
        """Make a right conversion in `directory` the wrong one."""
        architecture = read_fast_llm(directory).architecture
        if self.weights:
            for file in directory.glob("*.safetensors"):
                stored = load_file(file)
                weights = {key.removesuffix("/weights"): tensor for key, tensor in stored.items()}
                self.weights(weights, architecture)
                save_file({f"{name}/weights": tensor.contiguous().clone() for name, tensor in weights.items()}, file)
        if self.architecture:
            metadata = yaml.safe_load((directory / METADATA).read_text())
            metadata["config"]["base_model"] = write_base_model(self.architecture(architecture))
            (directory / METADATA).write_text(yaml.safe_dump(metadata))


@contextmanager
def layers_counted() -> Iterator[None]:
    """`Current.layer` follows the reference's blocks."""
    block, head = Model.run_block, Model.run_head

    def counted_block(self: Model, index: int, *args: Any) -> Any:
        Current.layer = index
        return block(self, index, *args)

    def counted_head(self: Model, *args: Any) -> Any:
        Current.layer = HEAD
        return head(self, *args)

    setattr(Model, "run_block", counted_block)  # noqa: B010 (a method of a class under mutation)
    setattr(Model, "run_head", counted_head)  # noqa: B010
    try:
        yield
    finally:
        setattr(Model, "run_block", block)  # noqa: B010
        setattr(Model, "run_head", head)  # noqa: B010
        Current.layer = None


@dataclass
class MutantSubject:
    """The reference subject with a bug: a Subject like any other."""

    mutation: Mutation
    inner: ReferenceSubject = field(default_factory=ReferenceSubject)

    def describe(self) -> Description:
        """Who answers."""
        return self.inner.describe()

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """As the reference."""
        return self.inner.variants(checkpoint)

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """As the reference, then made wrong where the conversion is the mutant."""
        result = self.inner.convert(request)
        self.mutation.edit(Path(request.target))
        return result

    def trace(self, request: TraceRequest) -> TraceResult:
        """The reference's forward with the mutant's patches in force."""
        with layers_counted(), self.mutation.planted():
            return self.inner.trace(request)

    def export(self, request: ExportRequest) -> ConvertResult:
        """As the reference."""
        return self.inner.export(request)

    def release(self) -> None:
        """As the reference."""
        self.inner.release()
