"""The weights of a loaded model for the next one: Fast-LLM builds that model anew, and reads no checkpoint for it.

Fast-LLM keeps a model's weights as one flat tensor, the shard "weights", and lets a checkpoint format say how it is
filled. Here a format that reads the same directory fills it from memory, where the layouts are the same. The shard is
in float32 whatever dtype the model computes in, so that a model of another dtype takes the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

SHARD = "weights"
Layout = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Weights:
    """The flat tensor of a model's weights, and which parameter of which shape follows which in it."""

    shard: Tensor
    layout: Layout


def take_weights(wrapper: Any) -> Weights:
    """Return the weights of a loaded model, which may be unloaded then."""
    model = wrapper._fast_llm_model
    return Weights(model.get_shard(SHARD), read_layout(model))


def read_layout(model: Any) -> Layout:
    """Return names and shapes of a model's parameters in the order in which the shard holds them."""
    return tuple((name, tuple(meta.shape)) for _, _, name, meta in model.stages_fsdp_parameters)


def make_format(weights: Weights) -> Any:
    """Make a checkpoint format that is Fast-LLM's own, but fills a model of the same layout from memory."""
    from fast_llm.engine.checkpoint.config import FastLLMCheckpointFormat

    class Handler(FastLLMCheckpointFormat.get_handler_class()):  # type: ignore[misc]
        """Copies the weights; a model of another layout, or of another dtype, reads the directory."""

        format = FastLLMCheckpointFormat

        def load(self, config: Any) -> Any:
            """Fill the model's shard."""
            shard = self._model.get_shard(SHARD)
            only_weights = tuple(self.get_shard_names(config)) == (SHARD,)
            if not only_weights or _describe(self._model) != (*_place(weights.shard), weights.layout):
                return super().load(config)
            shard.copy_(weights.shard)
            return None

    class Format(FastLLMCheckpointFormat):  # type: ignore[misc]
        """Fast-LLM's format, with the handler above."""

        @classmethod
        def get_handler_class(cls) -> type[Any]:
            """Return the handler above."""
            return Handler

    return Format


def _describe(model: Any) -> tuple[Any, ...]:
    return (*_place(model.get_shard(SHARD)), read_layout(model))


def _place(shard: Tensor) -> tuple[Any, ...]:
    return tuple(shard.shape), shard.dtype, shard.device
