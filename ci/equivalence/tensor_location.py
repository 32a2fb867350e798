"""Says where in the model a captured tensor stands: its block, and its operation in plain words."""

from __future__ import annotations

from dataclasses import dataclass

from ci.tensor_names import (
    BETA,
    CONTEXT,
    DECAY,
    EMBEDDINGS,
    FINAL_NORM,
    IMAGE_EMBEDDINGS,
    KEY,
    LOGITS,
    MIXER,
    MIXER_RESIDUAL,
    MLP,
    MLP_DENSE,
    MLP_ROUTED,
    NORM_1,
    NORM_2,
    PATCHES,
    PROJECTOR,
    QUERY,
    RECURRENCE,
    ROUTER_LOGITS,
    ROUTER_SCORES,
    STEP,
    TOP_EXPERTS,
    VALUE,
    VISION_NORM,
    layer_of,
    operation_of,
    vision_layer_of,
)

PLAIN_WORDS: dict[str, str] = {
    PATCHES: "patch embedding",
    VISION_NORM: "norm of the patches",
    PROJECTOR: "projector",
    IMAGE_EMBEDDINGS: "image features among the tokens",
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
    """Tensor name, its block of the decoder (None outside), and its operation in plain words.

    Of a vision tower's block the operation says which one, too.
    """

    tensor: str
    layer: int | None
    operation: str

    def __str__(self) -> str:
        return self.operation if self.layer is None else f"layer {self.layer}, {self.operation}"


def locate_tensor(name: str) -> TensorLocation:
    """Return where a captured tensor stands."""
    layer, words = vision_layer_of(name), describe_operation(name)
    return TensorLocation(name, layer_of(name), words if layer is None else f"vision block {layer}, {words}")


def describe_operation(name: str) -> str:
    """Return a tensor's operation in plain words, without its block."""
    operation = operation_of(name)
    return PLAIN_WORDS.get(operation, operation)
