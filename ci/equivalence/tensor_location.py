"""Says where in the model a captured tensor stands: its block, and its operation in plain words."""

from __future__ import annotations

from dataclasses import dataclass

from ci.tensor_names import (
    BETA,
    CONTEXT,
    DECAY,
    EMBEDDINGS,
    FINAL_NORM,
    KEY,
    LOGITS,
    MIXER,
    MIXER_RESIDUAL,
    MLP,
    MLP_DENSE,
    MLP_ROUTED,
    NORM_1,
    NORM_2,
    QUERY,
    RECURRENCE,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    STEP,
    TOP_EXPERTS,
    VALUE,
    layer_of,
    operation_of,
)

PLAIN_WORDS: dict[str, str] = {
    EMBEDDINGS: "token embeddings",
    NORM_1: "norm before attention",
    QUERY: "query",
    KEY: "key",
    VALUE: "value",
    STEP: "step size of the scan",
    DECAY: "decay of the recurrence",
    BETA: "write strength of the recurrence",
    RECURRENCE: "recurrence",
    CONTEXT: "attention",
    MIXER: "attention output projection",
    MIXER_RESIDUAL: "residual after attention",
    NORM_2: "norm before the MLP",
    ROUTER_LOGITS: "router",
    TOP_EXPERTS: "choice of experts",
    ROUTER_SCORES: "router scores",
    MLP_DENSE: "dense MLP beside the experts",
    MLP_ROUTED: "experts beside the dense MLP",
    MLP: "MLP",
    "": "residual after the MLP",
    FINAL_NORM: "final norm",
    LOGITS: "output head",
}
"""Each operation in plain words; the empty name is a block's output."""


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
    return TensorLocation(name, layer_of(name), PLAIN_WORDS.get(operation, operation))
