"""What Fast-LLM offers, as far as it is known without importing it."""

from __future__ import annotations

from ci.subjects.base import Variant
from ci.subjects.offer import SubjectOffer

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
    conditional_needs={
        "attention=flash": ("flash-attn",),
        "attention=sdpa_nested": ("attention without a window",),
    },
    fast_llm_checkpoints=True,
)
"""The formats are those that this suite has models and tests for: Fast-LLM converts more, `describe` names them all."""
