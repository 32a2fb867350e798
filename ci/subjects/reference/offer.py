"""What the reference offers, known without importing torch."""

from __future__ import annotations

from ci.layouts import LAYOUT_AXIS
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
)
