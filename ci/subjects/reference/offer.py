"""What the reference offers, known without importing torch."""

from __future__ import annotations

from ci.subjects.base import Variant
from ci.subjects.offer import SubjectOffer

LAYOUTS_OFFERED = (
    "single",
    "accumulate2",
    "breadth2",
    "tp2",
    "pp2",
    "pp2_tied",
    "dp2",
    "zero2",
    "dp2_accumulate2",
    "dp2_tp2",
)
"""The layouts in which the reference trains, over gloo on processes of this machine."""

DIVISIBLE = "heads and intermediate sizes that the ranks can divide"
ENOUGH_LAYERS = "a layer for each stage"
TIED = "tied embeddings"
LAYOUT_NEEDS = (DIVISIBLE, ENOUGH_LAYERS, TIED)
"""What only some models have."""

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
    layouts=LAYOUTS_OFFERED,
    conditional_needs={f"layout={name}": LAYOUT_NEEDS for name in LAYOUTS_OFFERED},
)
