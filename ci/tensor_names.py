"""Names of the tensors in a trace, and what a name says: its block, its operation, its scope. Standard library only.

The names are Fast-LLM's names for hidden states. `ci.subjects.base` lists each one with its shape.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EMBEDDINGS, FINAL_NORM, LOGITS = "embeddings", "final_norm", "logits"
PREDICTION_BLOCK = "block"
NORM_1, NORM_2 = "norm_1", "norm_2"
QUERY, KEY, VALUE, CONTEXT, MIXER = "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer"
STEP = "mixer.step"
DECAY, BETA, RECURRENCE = "mixer.decay", "mixer.beta", "mixer.recurrence"
MIXER_RESIDUAL = "mixer_residual"
ROUTER_LOGITS, TOP_EXPERTS, ROUTER_SCORES = "mlp.router_logits", "mlp.router_top_experts", "mlp.router_scores"
MLP = "mlp"
MLP_DENSE, MLP_ROUTED = "mlp.dense", "mlp.routed"

ROUTER_OPERATIONS = (ROUTER_LOGITS, TOP_EXPERTS, ROUTER_SCORES)
"""The operations that only a mixture of experts has."""
BRANCH_OPERATIONS = (MLP_DENSE, MLP_ROUTED)
"""The operations of a block whose experts run beside a dense MLP, each branch with norms of its own."""
DELTA_RULE_OPERATIONS = (DECAY, BETA, RECURRENCE)
"""The operations that only a gated delta net and Kimi delta attention have."""
SCAN_OPERATIONS = (STEP,)
"""The operations that only a Mamba block has; its C, B and x are query, key and value."""
BLOCK_OPERATIONS = (
    *(NORM_1, QUERY, KEY, VALUE, *SCAN_OPERATIONS, *DELTA_RULE_OPERATIONS, CONTEXT, MIXER, MIXER_RESIDUAL, NORM_2),
    *ROUTER_OPERATIONS,
    *BRANCH_OPERATIONS,
    MLP,
)
"""The operations of a block in execution order; the block's output follows them under the block's own name."""

PATCHES, VISION_NORM = "vision_encoder.embeddings.patch_embeddings", "vision_encoder.embeddings"
"""Before the blocks of a vision tower: the projected patches, and the tower's norm of them, the first block's input."""
PROJECTOR = "vision_encoder.adapter"
"""What the projector makes of the tower's output: features as wide as the decoder."""
IMAGE_EMBEDDINGS = "image_embeddings"
"""The decoder's input at the tokens of images: where the projector's features came to stand among the text."""

EMBEDDINGS_SCOPE, HEAD_SCOPE = "embeddings", "head"
"""The scopes outside the blocks; each block is a scope of its own, and so are the parts around a vision tower."""

_NUMBER = r"(0|[1-9][0-9]{0,5})(?=\.|$)"
_BLOCK = re.compile(rf"decoder\.{_NUMBER}")
_VISION_BLOCK = re.compile(rf"vision_encoder\.encoder\.{_NUMBER}")
_VISION_SCOPES = {name: name for name in (VISION_NORM, PROJECTOR, IMAGE_EMBEDDINGS)} | {PATCHES: VISION_NORM}
_VISION_FIRST, _VISION_LAST = -(1 << 30), -3
_PREDICTION_HEAD = re.compile(r"prediction_head\.([1-9][0-9]{0,2})\.")
_HEAD_ORDER = {PREDICTION_BLOCK: 0, FINAL_NORM: 1, LOGITS: 2}
_ORDER = {operation: number for number, operation in enumerate((*BLOCK_OPERATIONS, ""))}


def block_name(layer: int) -> str:
    """Return the name of block `layer` (0 is the first).

    It is the name of its scope and of its output.
    """
    return f"decoder.{layer}"


def tensor_name(layer: int, operation: str) -> str:
    """Return the name of an operation's tensor in block `layer`."""
    return f"decoder.{layer}.{operation}"


def layer_of(name: str) -> int | None:
    """Return the number of the decoder's block that a tensor belongs to, None outside its blocks."""
    block = _BLOCK.match(name)
    return int(block[1]) if block else None


def vision_block_name(layer: int) -> str:
    """Return the name of block `layer` of a vision tower (0 is the first).

    It is the name of its scope and of its output. Its operations have the names of a decoder's.
    """
    return f"vision_encoder.encoder.{layer}"


def vision_layer_of(name: str) -> int | None:
    """Return the number of a tensor's block in the vision tower, None outside its blocks."""
    block = _VISION_BLOCK.match(name)
    return int(block[1]) if block else None


def is_vision(name: str) -> bool:
    """Return whether a tensor, or a scope, is about images: it has values at their tokens, and zeros elsewhere."""
    return name in _VISION_SCOPES or _VISION_BLOCK.match(name) is not None


def shorten_vision_name(name: str) -> str:
    """Return a name that fits beside a drawing: `vision 3` for `vision_encoder.encoder.3`; others stay."""
    return name.replace("vision_encoder.encoder.", "vision ").replace("vision_encoder.", "vision ")


def list_vision_tensors(blocks: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return every tensor before the decoder, in execution order.

    `blocks` has the operations of each block of the tower.
    """
    inside = (
        name
        for layer, operations in enumerate(blocks)
        for name in (*(f"{vision_block_name(layer)}.{operation}" for operation in operations), vision_block_name(layer))
    )
    return (PATCHES, VISION_NORM, *inside, PROJECTOR, IMAGE_EMBEDDINGS)


def operation_of(name: str) -> str:
    """Return the operation in a tensor's name: `mixer.query` of `decoder.3.mixer.query`.

    It is empty for a block's output, and the whole name outside the blocks.
    """
    block = _BLOCK.match(name) or _VISION_BLOCK.match(name)
    return name[block.end() :].removeprefix(".") if block else name


def scope_of(name: str) -> str:
    """Return the scope (the file's stem) that holds a tensor: `decoder.3` for `decoder.3.mixer.query`."""
    block = _BLOCK.match(name) or _VISION_BLOCK.match(name)
    if block:
        return block.group()
    return _VISION_SCOPES.get(name) or (EMBEDDINGS_SCOPE if name == EMBEDDINGS else HEAD_SCOPE)


def is_scope(name: str) -> bool:
    """Return whether a trace can have a scope of this name."""
    known = (EMBEDDINGS_SCOPE, HEAD_SCOPE, *_VISION_SCOPES.values())
    return name in known or (_BLOCK.fullmatch(name) or _VISION_BLOCK.fullmatch(name)) is not None


def is_block_output(name: str) -> bool:
    """Return whether a tensor is the output of a decoder's or a vision tower's block."""
    return not operation_of(name)


def is_block_level(name: str) -> bool:
    """Return whether a tensor is a block's output or stands outside the blocks."""
    return is_block_output(name) or (layer_of(name) is None and vision_layer_of(name) is None)


def is_router(operation: str) -> bool:
    """Return whether only a mixture of experts has this operation of a block."""
    return operation in ROUTER_OPERATIONS


def list_block_operations(
    *, experts: bool, branches: bool = False, delta_rule: bool = False, scan: bool = False
) -> tuple[str, ...]:
    """Return a block's operations in execution order.

    The router's are there only with `experts`, those of a recurrence only with `delta_rule` or with the selective
    `scan` of a Mamba block. With `branches` the experts run beside a dense MLP: then no norm is before both, so there
    is no `norm_2`.
    """
    left_out = (() if experts else ROUTER_OPERATIONS) + (() if delta_rule else DELTA_RULE_OPERATIONS)
    left_out += () if scan else SCAN_OPERATIONS
    left_out += (NORM_2,) if branches else BRANCH_OPERATIONS
    return tuple(name for name in BLOCK_OPERATIONS if name not in left_out)


def prediction_head_name(head: int, operation: str) -> str:
    """Return the name of a tensor of a further prediction head.

    Head 1 predicts the second next token. Its operations are its own block's output, `final_norm` and `logits`.
    """
    return f"prediction_head.{head}.{operation}"


def list_prediction_head_tensors(heads: int) -> tuple[str, ...]:
    """Return the tensors of `heads` prediction heads, in execution order; the main head has none of them."""
    operations = (PREDICTION_BLOCK, FINAL_NORM, LOGITS)
    return tuple(prediction_head_name(head, name) for head in range(1, heads) for name in operations)


def list_mandatory_tensors(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return the tensors that a trace of these scopes must hold, in execution order."""
    scopes = tuple(scopes)
    blocks = sum(layer_of(scope) is not None for scope in scopes)
    vision = sorted(filter(is_vision, scopes), key=execution_order)  # each one's last tensor has the scope's name
    return (*vision, EMBEDDINGS, *map(block_name, range(blocks)), FINAL_NORM, LOGITS)


def execution_order(name: str) -> tuple[int, int]:
    """Return a key that sorts tensors by the order in which they are computed."""
    layer = layer_of(name)
    if layer is not None:
        return layer, _ORDER.get(operation_of(name), len(_ORDER))
    vision = vision_layer_of(name)
    if vision is not None:
        return _VISION_FIRST + 1 + vision, _ORDER.get(operation_of(name), len(_ORDER))
    return _OUTSIDE_BLOCKS.get(name) or (1 << 30, _order_in_head(name))


_OUTSIDE_BLOCKS = {
    PATCHES: (_VISION_FIRST, 0),
    VISION_NORM: (_VISION_FIRST, 1),
    PROJECTOR: (_VISION_LAST, 0),
    IMAGE_EMBEDDINGS: (_VISION_LAST + 1, 0),
    EMBEDDINGS: (-1, 0),
}


def _order_in_head(name: str) -> int:
    """Return a number that sorts the tensors after the blocks: the main head's first, then head by head."""
    head = _PREDICTION_HEAD.match(name)
    return _HEAD_ORDER.get(name[head.end() if head else 0 :], 0) + 3 * (int(head[1]) if head else 0)


def list_unseen_before(name: str, not_captured: Iterable[str]) -> tuple[str, ...]:
    """Return the operations just before a block's tensor that were not captured: an error may begin in them."""
    block, lacking = scope_of(name), set(not_captured)
    operations = [*BLOCK_OPERATIONS, ""]
    if operation_of(name) not in operations:
        return ()
    unseen: list[str] = []
    for operation in reversed(operations[: operations.index(operation_of(name))]):
        if f"{block}.{operation}" not in lacking:
            if is_router(operation) or operation in (*BRANCH_OPERATIONS, *SCAN_OPERATIONS, *DELTA_RULE_OPERATIONS):
                continue  # not every block has them
            break
        unseen.append(operation.rpartition(".")[2])
    return tuple(reversed(unseen))
