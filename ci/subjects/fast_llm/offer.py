"""What Fast-LLM offers, as far as it is known without importing it."""

from __future__ import annotations

from ci.layouts import LAYOUTS
from ci.subjects.base import Variant
from ci.subjects.offer import SubjectOffer

OTHER_MIXERS = "a stochastic mixer of this name in every block"
"""What a model without several mixers a block lacks."""

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
    formats=(
        *("llama", "mistral", "mixtral", "qwen2", "gemma4", "llava"),
        *("mtp_llama", "dream", "diffusion_llama", "apriel2_text", "apriel2"),
        *("apriel_hybrid_ssm", "llava_hybrid_ssm"),
    ),
    variants=(
        Variant("attention", "backup"),
        Variant("attention", "sdpa_dense"),
        Variant("attention", "sdpa_nested", needs="cuda"),
        Variant("attention", "flash", needs="cuda"),
        Variant("moe", "looped"),
        Variant("moe", "dropless", needs="triton"),
        Variant("mixer", "attention"),
        Variant("mixer", "sliding_window"),
        Variant("mixer", "gdn"),
        Variant("mixer", "kda"),
    ),
    axis_formats={"moe": frozenset({"mixtral", "gemma4"}), "mixer": frozenset({"apriel2_text", "apriel2"})},
    dense_formats=frozenset({"gemma4"}),
    layouts=LAYOUTS_OFFERED,
    conditional_needs={
        "attention=flash": ("flash-attn",),
        "attention=sdpa_nested": ("attention without a window",),
        **{f"mixer={name}": (OTHER_MIXERS,) for name in ("attention", "sliding_window", "gdn", "kda")},
        **LAYOUT_NEEDS,
    },
    fast_llm_checkpoints=True,
)
"""The formats are all that Fast-LLM converts at commit 7d61a1b, those that it refuses itself too."""
