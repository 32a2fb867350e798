"""Which variants each subject offers by checkpoint format: what a plan can promise before anything is loaded.

The names become test ids, so they must be known at collection, without torch. What a subject really offers for a
checkpoint is its own answer (`Subject.variants`); a test holds the two against each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SUBJECTS = ("fast_llm", "reference")

_ATTENTION = {
    "fast_llm": ("backup", "sdpa_dense", "sdpa_nested", "flash"),
    "reference": ("eager", "sdpa", "blockwise"),
}
_MOE = {
    "fast_llm": ("looped", "dropless"),
    "reference": ("looped", "dropless"),
}
_MOE_FORMATS = frozenset({"mixtral"})

CHAIN = (
    "test_download_and_truncate",
    "test_conversion",
    "test_forward_equivalence",
    "test_moe_implementation",
    "test_implementation",
    "test_hub_model_conversion",
)
"""The suite's test functions in the order in which they run."""

DEEP = ("test_config_sensitivity", "test_weight_liveness", "test_gradients")
"""The opt-in part of the suite, `--deep`."""


def moe_variants(subject: str, checkpoint_format: str) -> tuple[str, ...]:
    """Names on the axis "moe"; none for a dense format."""
    return _MOE[subject] if checkpoint_format in _MOE_FORMATS else ()


def other_variants(subject: str, checkpoint_format: str) -> tuple[tuple[str, str], ...]:
    """(axis, name) of every other implementation choice."""
    del checkpoint_format  # every format so far has attention in every layer
    return tuple(("attention", name) for name in _ATTENTION[subject])


def expected_tests(subject: str, name: str, checkpoint_format: str, *, deep: bool = False) -> tuple[str, ...]:
    """The test ids that must come back for the registry entry `name`, in order."""
    ids = {
        "test_moe_implementation": [f"{v}-{name}" for v in moe_variants(subject, checkpoint_format)],
        "test_implementation": [f"{axis}-{v}-{name}" for axis, v in other_variants(subject, checkpoint_format)],
    }
    functions = CHAIN + (DEEP if deep else ())
    return tuple(f"{function}[{variant}]" for function in functions for variant in ids.get(function, [name]))


def id_tables() -> Mapping[str, tuple[str, ...]]:
    """Every variant name of every subject by axis, for fixtures named after them."""
    return {
        "attention": tuple(dict.fromkeys(n for names in _ATTENTION.values() for n in names)),
        "moe": tuple(dict.fromkeys(n for names in _MOE.values() for n in names)),
    }
