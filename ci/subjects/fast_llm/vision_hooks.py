"""Hooks on Fast-LLM's vision encoder: record each operation, replace what follows.

Its layers get all patches of the batch as one pack, in the order of the image tokens; a pack may be padded at its end.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.subjects.fast_llm.mixers import list_operations
from ci.subjects.fast_llm.recording import HIDDEN_STATES, RecordingDict, replace_forward
from ci.subjects.image_trace import ImageRecorder
from ci.tensor_names import PATCHES, PROJECTOR, VISION_NORM, list_vision_tensors, vision_block_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def find_vision_encoder(base: Any) -> Any:
    """Return the vision encoder of a base model, None for a model of text."""
    return getattr(base, "vision_encoder", None)


def find_image_token(base: Any) -> int | None:
    """Return the id of the tokens that stand for images, None for a model of text."""
    token = getattr(getattr(base, "_config", None), "image_token_index", None)
    return token if isinstance(token, int) else None


@dataclass(frozen=True)
class VisionHooks:
    """The hooks of one forward pass of `encoder`, a VisionEncoder; `operations` are recorded in each block."""

    encoder: Any
    images: ImageRecorder
    operations: frozenset[str]

    def list_patterns(self) -> list[str]:
        """Return regular expressions of the hidden states that are asked for inside the blocks."""
        names = [name for name, operation in HIDDEN_STATES.items() if operation in self.operations]
        inside = "|".join(map(re.escape, names))
        return [rf"{re.escape(block.module_name)}\.(?:{inside})$" for block in self.encoder.encoder] if names else []

    def list_expected(self) -> tuple[str, ...]:
        """Return every name that the trace should hold before the decoder, in execution order."""
        if not self.operations:
            return ()
        kept = [[op for op in list_operations(block) if op in self.operations] for block in self.encoder.encoder]
        return list_vision_tensors(kept)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wrap the layers for the length of the context."""
        embeddings, blocks, adapter = self.encoder.embeddings, list(self.encoder.encoder), self.encoder.adapter
        with ExitStack() as stack:
            hook = embeddings.patch_embeddings.register_forward_hook(self._record_patches)
            stack.callback(hook.remove)
            stack.enter_context(self._wrap(embeddings, VISION_NORM))
            for index, block in enumerate(blocks):
                stack.enter_context(self._wrap(block, vision_block_name(index)))
            stack.enter_context(self._wrap(adapter, PROJECTOR))
            yield

    def _record_patches(self, _: Any, __: Any, output: Tensor) -> None:
        self.images.record(PATCHES, output[: self.images.count])

    def _wrap(self, layer: Any, name: str) -> AbstractContextManager[None]:
        return replace_forward(layer, self._make_forward(name, layer, layer.forward))

    def _make_forward(self, name: str, layer: Any, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def record(theirs: str, tensor: Tensor) -> None:
            operation = HIDDEN_STATES.get(theirs.removeprefix(f"{layer.module_name}."))
            if operation in self.operations and name not in (VISION_NORM, PROJECTOR):
                self.images.record(f"{name}.{operation}", tensor[: self.images.count])

        def run(input_: Tensor, kwargs: dict[str, Any], *args: Any, **rest: Any) -> Tensor:
            output = forward(input_, {**kwargs, "hidden_states": RecordingDict(record)}, *args, **rest)
            count = self.images.count
            return torch.cat([self.images.follow(name, output[:count]), output[count:]])

        return run
