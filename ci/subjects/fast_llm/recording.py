"""How Fast-LLM's layers are watched: its names of hidden states, and how a layer's `forward` is replaced."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ci.tensor_names import (
    BLOCK_OPERATIONS,
    DELTA_RULE_OPERATIONS,
    MIXER,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    SCAN_OPERATIONS,
    TOP_EXPERTS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

NO_HIDDEN_STATE = (MIXER, ROUTER_LOGITS, *SCAN_OPERATIONS, *DELTA_RULE_OPERATIONS)
HIDDEN_STATES = {
    **{name: name for name in BLOCK_OPERATIONS if name not in NO_HIDDEN_STATE},
    "mixer_output": MIXER,  # Fast-LLM's own `mixer` is without the bias
    **{f"mlp.routed.{name.removeprefix('mlp.')}": name for name in (TOP_EXPERTS, ROUTER_SCORES)},
}
"""Fast-LLM's name of a hidden state in a block → the trace's.

The router's logits are read by a module hook: Fast-LLM's own hidden state of them fails its shape check. Recurrences
have no hidden states: what their kernels are given is watched (`ci.subjects.fast_llm.mixers`).
"""


class RecordingDict(dict[str, Any]):
    """A dictionary for Fast-LLM's hidden states, name → (meta, tensor), that passes each one on and keeps nothing."""

    def __init__(self, record: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._record = record

    def __setitem__(self, name: str, value: tuple[Any, Tensor]) -> None:
        self._record(name, value[1])


@contextmanager
def replace_forward(block: Any, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Replace the `forward` of a layer for the length of the context."""
    block.forward = forward
    try:
        yield
    finally:
        del block.forward
