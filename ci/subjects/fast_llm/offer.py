"""What Fast-LLM offers, as far as it is known without importing it."""

from __future__ import annotations

from ci.layouts import LAYOUTS
from ci.subjects.base import Variant
from ci.subjects.offer import SubjectOffer

LAYOUTS_OFFERED = tuple(name for name, layout in LAYOUTS.items() if layout.expert == 1)
"""The layouts in which Fast-LLM trains and runs: all that are known but expert parallelism, which it does not have."""

LAYOUT_NEEDS = {
    f"layout={name}": (
        *((f"{LAYOUTS[name].ranks} GPUs",) if LAYOUTS[name].ranks > 1 else ()),
        *((f"divisible by {LAYOUTS[name].tensor} tensor ranks",) if LAYOUTS[name].tensor > 1 else ()),
        *(("different ranks",) if LAYOUTS[name].separate_tied else ()),
    )
    for name in LAYOUTS_OFFERED
    if LAYOUTS[name].ranks > 1
}
"""What a layout's refusal may name: GPUs of this machine, or a size of the model that the ranks cannot divide."""

OFFER = SubjectOffer(
    name="fast_llm",
    package="fast_llm",
    formats=("llama", "mistral", "mixtral", "qwen2"),
    variants=(
        Variant("attention", "backup"),
        Variant("attention", "sdpa_dense"),
        Variant("attention", "sdpa_nested", needs="cuda"),
        Variant("attention", "flash", needs="cuda"),
        Variant("moe", "looped"),
        Variant("moe", "dropless", needs="triton"),
    ),
    axis_formats={"moe": frozenset({"mixtral"})},
    layouts=LAYOUTS_OFFERED,
    conditional_needs={
        "attention=flash": ("flash-attn",),
        "attention=sdpa_nested": ("attention without a window",),
        **LAYOUT_NEEDS,
    },
    fast_llm_checkpoints=True,
)
"""The formats are those that this suite has models and tests for: Fast-LLM converts more, `describe` names them all."""
