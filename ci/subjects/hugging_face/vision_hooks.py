"""Hooks on a vision tower: record each operation, replace what follows. Its tensors are (1, patches, …)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ci.subjects.hugging_face.structure import find_child
from ci.subjects.hugging_face.vision_structure import VisionBlock, VisionParts
from ci.subjects.image_trace import ImageRecorder
from ci.tensor_names import (
    CONTEXT,
    MIXER,
    MIXER_RESIDUAL,
    MLP,
    NORM_1,
    NORM_2,
    PATCHES,
    PROJECTOR,
    VALUE,
    VISION_NORM,
    vision_block_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Hook = Any
"""What torch gives for a registered hook."""


@dataclass
class VisionHooks:
    """The hooks of one tower. `records_values`: its attention is not dispatched, so its values are read before it.

    `block` is the name of the block that runs, empty outside of the tower's blocks.
    """

    parts: VisionParts
    images: ImageRecorder
    records_values: bool
    block: str = ""

    def register(self) -> Iterator[Hook]:
        """Register every hook and yield its handle."""
        parts, names = self.parts, [vision_block_name(index) for index in range(len(self.parts.blocks))]
        yield parts.norm.register_forward_pre_hook(self._record_patches, with_kwargs=True)
        for name, before, block in zip(names, (VISION_NORM, *names), parts.blocks, strict=False):
            yield block.module.register_forward_pre_hook(self._before_block(name, before), with_kwargs=True)
            if self.images.capture_all:
                yield from self._register_operations(block)
            yield block.module.register_forward_hook(self._after_block(name))
        yield parts.projector.register_forward_pre_hook(self._before_projector(names[-1]), with_kwargs=True)
        yield parts.projector.register_forward_hook(self._after_projector)

    def record(self, operation: str, tensor: Tensor) -> None:
        """Keep an operation (1, patches, …) of the block that runs; outside of a block nothing."""
        if self.block:
            self.images.record(f"{self.block}.{operation}", tensor[0])

    def _record_patches(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.images.record(PATCHES, _first(args, kwargs)[0])

    def _before_block(self, name: str, before: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.block, hidden = name, _first(args, kwargs)[0]
            if before == VISION_NORM:
                self.images.record(VISION_NORM, hidden)
            return _replace_first(args, kwargs, self.images.force(before, hidden)[None])

        return hook

    def _after_block(self, name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            self.block = ""
            hidden = self.images.follow(name, _main(output)[0])[None]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    def _before_projector(self, before: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = _first(args, kwargs)  # transformers may have kept the last block's output before it was replaced
            return _replace_first(args, kwargs, self.images.force(before, hidden[0])[None])

        return hook

    def _after_projector(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        return self.images.follow(PROJECTOR, output[0])[None]

    def _register_operations(self, block: VisionBlock) -> Iterator[Hook]:
        yield block.mixer.register_forward_pre_hook(self._record_input(NORM_1), with_kwargs=True)
        if (projection := find_child(block.mixer, "o_proj")) is not None:
            yield projection.register_forward_pre_hook(self._record_input(CONTEXT), with_kwargs=True)
        if self.records_values and (values := find_child(block.mixer, "v_proj")) is not None:
            yield values.register_forward_hook(self._record_values(block.mixer))
        yield block.mixer.register_forward_hook(self._record_output(MIXER))
        yield block.norm_before_mlp.register_forward_pre_hook(self._record_input(MIXER_RESIDUAL), with_kwargs=True)
        yield block.mlp.register_forward_pre_hook(self._record_input(NORM_2), with_kwargs=True)
        yield block.mlp.register_forward_hook(self._record_output(MLP))

    def _record_input(self, operation: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.record(operation, _first(args, kwargs))

        return hook

    def _record_output(self, operation: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self.record(operation, _main(output))

        return hook

    def _record_values(self, mixer: Any) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self.record(VALUE, output.reshape(*output.shape[:-1], -1, mixer.head_dim))

        return hook


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor = args[0] if args else kwargs["hidden_states"]
    assert isinstance(tensor, Tensor)  # noqa: S101 (narrowing only)
    return tensor


def _main(output: Any) -> Tensor:
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, Tensor)  # noqa: S101 (narrowing only)
    return tensor


def _replace_first(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> tuple[Any, dict[str, Any]]:
    return ((tensor, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": tensor})
