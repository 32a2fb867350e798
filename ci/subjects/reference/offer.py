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
PLAIN = "attention and nothing else as mixers, one prediction head, no images"
LAYOUT_NEEDS = (DIVISIBLE, ENOUGH_LAYERS, TIED, PLAIN)
"""What only some models have."""

SEEING_FORMATS = ("llava",)
"""The formats of models that see images."""
MIXERS = ("attention", "sliding_window", "gdn", "kda")
"""The names that published models give their mixers."""
OTHER_MIXERS = "a stochastic mixer of this name in every block"
SOME_ATTENTION = "attention as the main mixer of some block"

OFFER = SubjectOffer(
    name="reference",
    package="ci",
    formats=(
        *("llama", "mistral", "mixtral", "qwen2", "gemma4"),
        *("mtp_llama", "dream", "diffusion_llama", "apriel2_text", "apriel_hybrid_ssm", "llava"),
    ),
    variants=(
        Variant("attention", "eager", default=True),
        Variant("attention", "sdpa"),
        Variant("attention", "blockwise"),
        Variant("moe", "looped", default=True),
        Variant("moe", "dropless"),
        *(Variant("mixer", name) for name in MIXERS),
    ),
    axis_formats={"moe": frozenset({"mixtral", "gemma4"}), "mixer": frozenset({"apriel2_text"})},
    dense_formats=frozenset({"gemma4"}),
    in_this_package=True,
    fast_llm_checkpoints=True,
    layouts=LAYOUTS_OFFERED,
    conditional_needs={
        **{f"layout={name}": LAYOUT_NEEDS for name in LAYOUTS_OFFERED},
        **{f"mixer={name}": (OTHER_MIXERS,) for name in MIXERS},
        **{f"attention={name}": (SOME_ATTENTION,) for name in ("eager", "sdpa", "blockwise")},
    },
)
