"""Bug injection: patches on the reference subject's functions, or edits of the checkpoint that it converted.

A mutant behaves as the broken code would: the patched function runs instead of the correct one during a call, and
the edited directory is what a wrong conversion would have written.
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

from benchmarks.mutation.tiny_models import TinyModel
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


class CurrentLayer:
    """The index of the block that runs now, on either side. Patches of one layer read it."""

    index: int | None = None


@dataclass(frozen=True)
class Patch:
    """A replacement of the function `name` of `module` by `make(original)`.

    With `key`, `name` is a mapping and its entry `key` is replaced. With `layer`, the replacement runs only in that
    block (HEAD: in the final norm and the head); otherwise in all.
    """

    module: str
    name: str
    make: Callable[[Any], Any]
    key: str | None = None
    layer: int | None = None

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Put the replacement in place within the `with` block."""
        owner: Any = import_module(self.module)
        holder = getattr(owner, self.name) if self.key else vars(owner)
        key = self.key or self.name
        original = holder[key]
        holder[key] = self._limit_to_layer(original)
        try:
            yield
        finally:
            holder[key] = original

    def _limit_to_layer(self, original: Any) -> Any:
        mutated = self.make(original)
        if self.layer is None:
            return mutated
        return lambda *args, **kwargs: (mutated if CurrentLayer.index == self.layer else original)(*args, **kwargs)


@dataclass(frozen=True)
class Mutation:
    """One bug. `location` is a pattern of the tensor that must be named as the first wrong one.

    A conversion bug edits `weights` in place or replaces the `architecture`. A kernel bug has `patches`, and
    `hf_targets` name the functions of Hugging Face to replace so that it has the bug too. `lossy`: the export cannot
    undo it, so that a round trip sees it. `applies_to`: the tiny models in which it is a bug at all.
    """

    name: str
    bug_class: str
    location: str
    weights: Callable[[Weights, Architecture], None] | None = None
    architecture: Callable[[Architecture], Architecture] | None = None
    patches: tuple[Patch, ...] = ()
    hf_targets: tuple[str, ...] = ()
    applies_to: Callable[[TinyModel], bool] = lambda _: True
    lossy: bool = False
    variant: Mapping[str, str] = field(default_factory=dict)
    low_precision: bool = False

    @property
    def component(self) -> str:
        """The faulty component: "kernel" or "conversion"."""
        return "kernel" if self.patches else "conversion"

    def matches_location(self, tensor: str) -> bool:
        """Return whether `tensor`, named as the first wrong one, is the place of the bug."""
        return re.fullmatch(self.location, tensor) is not None

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Put the patches in place within the `with` block. A conversion bug has none."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch.injected())
            yield

    def edit_checkpoint(self, directory: Path) -> None:
        """Turn the correct conversion in `directory` into the wrong one."""
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
def current_layer_tracked() -> Iterator[None]:
    """Keep `CurrentLayer.index` at the block of the reference that runs, within the `with` block."""
    block, head = Model.run_block, Model.run_head

    def tracked_block(self: Model, index: int, *args: Any) -> Any:
        CurrentLayer.index = index
        return block(self, index, *args)

    def tracked_head(self: Model, *args: Any) -> Any:
        CurrentLayer.index = HEAD
        return head(self, *args)

    setattr(Model, "run_block", tracked_block)  # noqa: B010 (a method of a class under mutation)
    setattr(Model, "run_head", tracked_head)  # noqa: B010
    try:
        yield
    finally:
        setattr(Model, "run_block", block)  # noqa: B010
        setattr(Model, "run_head", head)  # noqa: B010
        CurrentLayer.index = None


@dataclass
class MutantSubject:
    """The reference subject with a bug: a Subject like any other."""

    mutation: Mutation
    inner: ReferenceSubject = field(default_factory=ReferenceSubject)

    def describe(self) -> Description:
        """Describe the reference."""
        return self.inner.describe()

    def variants(self, checkpoint: str) -> tuple[Variant, ...]:
        """Return the variants of the reference."""
        return self.inner.variants(checkpoint)

    def convert(self, request: ConvertRequest) -> ConvertResult:
        """Convert as the reference does, then edit the result if the bug is in the conversion."""
        result = self.inner.convert(request)
        self.mutation.edit_checkpoint(Path(request.target))
        return result

    def trace(self, request: TraceRequest) -> TraceResult:
        """Run the reference's forward pass with the patches in place."""
        with current_layer_tracked(), self.mutation.injected():
            return self.inner.trace(request)

    def export(self, request: ExportRequest) -> ConvertResult:
        """Export as the reference does."""
        return self.inner.export(request)

    def release(self) -> None:
        """Release the model of the reference."""
        self.inner.release()
