"""Names and order of the hidden states that Fast-LLM's runner leaves behind, as a trace has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.subjects.fast_llm.recording import HIDDEN_STATES
from ci.subjects.forward import sort_by_score
from ci.tensor_names import (
    EMBEDDINGS,
    FINAL_NORM,
    LOGITS,
    ROUTER_SCORES,
    TOP_EXPERTS,
    block_name,
    is_block_level,
    tensor_name,
)

if TYPE_CHECKING:
    from torch import Tensor


def name_hidden_states(base: Any, *, everything: bool) -> dict[str, str]:
    """Return Fast-LLM's name of a hidden state → the trace's; without `everything` those of whole blocks alone."""
    names = {
        base.embeddings.module_name: EMBEDDINGS,
        base.head.final_norm.module_name: FINAL_NORM,
        f"{base.head.module_name}.logits": LOGITS,
    }
    for index, block in enumerate(base.decoder):
        names[block.module_name] = block_name(index)
        names |= {f"{block.module_name}.{theirs}": tensor_name(index, ours) for theirs, ours in HIDDEN_STATES.items()}
    return {theirs: ours for theirs, ours in names.items() if everything or is_block_level(ours)}


def sort_routing(states: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Sort the chosen experts of each token by their scores, as a trace has them."""
    for name in [name for name in states if name.endswith(TOP_EXPERTS)]:
        scores = name.removesuffix(TOP_EXPERTS) + ROUTER_SCORES
        pairs = [sort_by_score(*pair) for pair in zip(states[name], states[scores], strict=True)]
        states[name], states[scores] = [experts for experts, _ in pairs], [score for _, score in pairs]
    return states
