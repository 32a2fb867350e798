"""Where in the model a captured tensor stands: its block, its operation in plain words, its place in the order.

The names are those of a trace, `ci.subjects.base` lists them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EMBEDDINGS, FINAL_NORM, LOGITS = "embeddings", "final_norm", "logits"
NORM_1, NORM_2 = "norm_1", "norm_2"
QUERY, KEY, VALUE, CONTEXT, MIXER = "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer"
ROUTER_LOGITS, TOP_EXPERTS, ROUTER_SCORES = "mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores"
MLP = "mlp"

BLOCK_OPERATIONS: dict[str, str] = {
    NORM_1: "norm before attention",
    QUERY: "query",
    KEY: "key",
    VALUE: "value",
    CONTEXT: "attention",
    MIXER: "attention output projection",
    "mixer_residual": "residual after attention",
    NORM_2: "norm before the MLP",
    ROUTER_LOGITS: "router",
    TOP_EXPERTS: "choice of experts",
    ROUTER_SCORES: "router scores",
    MLP: "MLP",
    "": "residual after the MLP",
}
"""The operations of a block in execution order, in plain words; the empty name is the block's output."""
OUTER_OPERATIONS = {EMBEDDINGS: "token embeddings", FINAL_NORM: "final norm", LOGITS: "output head"}
"""The operations outside the blocks."""
_LAYER = re.compile(r"decoder\.(\d+)")
_ORDER = {operation: number for number, operation in enumerate(BLOCK_OPERATIONS)}


@dataclass(frozen=True)
class TensorLocation:
    """Tensor name, its block (None outside the blocks), and its operation in plain words."""

    tensor: str
    layer: int | None
    operation: str

    def __str__(self) -> str:
        return self.operation if self.layer is None else f"layer {self.layer}, {self.operation}"


def locate_tensor(name: str) -> TensorLocation:
    """Return where a captured tensor stands."""
    operation = operation_of(name)
    return TensorLocation(name, layer_of(name), {**BLOCK_OPERATIONS, **OUTER_OPERATIONS}.get(operation, operation))


def layer_of(name: str) -> int | None:
    """Return the number of the block that a tensor belongs to, None outside the blocks."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def operation_of(name: str) -> str:
    """Return the operation's part of a tensor name: `decoder.3.mixer.query` is `mixer.query`."""
    layer = layer_of(name)
    return name if layer is None else name.removeprefix(f"decoder.{layer}").removeprefix(".")


def is_block_level(name: str) -> bool:
    """Return whether a tensor is a block's output or outside the blocks."""
    return not operation_of(name) or layer_of(name) is None


def execution_order(name: str) -> tuple[int, int]:
    """Return a sort key: tensors in the order of execution."""
    layer = layer_of(name)
    if layer is None:
        return (-1, 0) if name == EMBEDDINGS else (1 << 30, int(name == LOGITS))
    return layer, _ORDER.get(operation_of(name), len(_ORDER))
