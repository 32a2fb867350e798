"""What the reference offers, known without importing torch."""

from __future__ import annotations

from ci.subjects.base import Variant
from ci.subjects.offer import SubjectOffer

OFFER = SubjectOffer(
    name="reference",
    package="ci",
    formats=("llama", "mistral", "mixtral", "qwen2"),
    variants=(
        Variant("attention", "eager", default=True),
        Variant("attention", "sdpa"),
        Variant("attention", "blockwise"),
        Variant("moe", "looped", default=True),
        Variant("moe", "dropless"),
    ),
    axis_formats={"moe": frozenset({"mixtral"})},
    in_this_package=True,
    fast_llm_checkpoints=True,
)
