"""The tests of the suite: their functions in the order in which they run, and the test ids of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.subjects.base import NO_GRADIENTS
from ci.subjects.registry import ADAPTERS, find_offer
from ci.subjects.training import NO_TRAINING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.subjects.base import Variant
    from ci.subjects.offer import SubjectOffer

DEFAULT_TESTS = (
    "test_download_and_truncate",
    "test_conversion",
    "test_forward_equivalence",
    "test_moe_implementation",
    "test_implementation",
    "test_hub_model_conversion",
)
"""The test functions of every run, in the order in which they run."""

SERVED_TEST = "test_served_export"
"""The test that runs with `--consumer` only, after the others of every run."""
GRADIENTS_TEST = "test_gradients"
TRAINING_TESTS = ("test_training_step", "test_resume", "test_layout_conversion")
"""The tests of whole training steps: of a subject whose offer names no layout they are not asked for."""
DEEP_TESTS = (
    "test_config_sensitivity",
    "test_weight_liveness",
    "test_layer_order",
    "test_positions",
    GRADIENTS_TEST,
    *TRAINING_TESTS,
)
"""The tests that run with `--deep` only."""

NO_EXPORT = "the subject does not export"
MOE_AXIS = "moe"
"""The axis of `test_moe_implementation`; `test_implementation` runs the variants of every other axis."""


def list_moe_variants(subject: str, checkpoint_format: str) -> tuple[str, ...]:
    """Return the names on the axis "moe"; a dense format has none."""
    variants = find_offer(subject).variants_of(checkpoint_format)
    return tuple(variant.name for variant in variants if variant.axis == MOE_AXIS)


def list_other_variants(subject: str, checkpoint_format: str) -> tuple[tuple[str, str], ...]:
    """Return (axis, name) of every variant on the other axes."""
    variants = find_offer(subject).variants_of(checkpoint_format)
    return tuple((variant.axis, variant.name) for variant in variants if variant.axis != MOE_AXIS)


def list_layouts(subject: str) -> tuple[tuple[str, str], ...]:
    """Return (axis, name) of every parallel layout in which the subject trains."""
    return tuple((variant.axis, variant.name) for variant in find_offer(subject).layout_variants)


def list_expected_tests(
    subject: str, name: str, checkpoint_format: str, *, deep: bool = False, served: bool = False
) -> tuple[str, ...]:
    """Return, in order, the ids of the tests that the registry entry `name` must report.

    What a subject's offer leaves out is not asked for: the suite says that the test did not run. The layouts are
    tested with `deep` only.
    """
    other = [*list_other_variants(subject, checkpoint_format), *(list_layouts(subject) if deep else ())]
    ids = {
        "test_moe_implementation": [f"{v}-{name}" for v in list_moe_variants(subject, checkpoint_format)],
        "test_implementation": [f"{axis}-{v}-{name}" for axis, v in other],
    }
    left_out, asked = list_left_out(find_offer(subject)), (SERVED_TEST,) if served else ()
    wanted = (*DEFAULT_TESTS, *asked, *(DEEP_TESTS if deep else ()))
    functions = (test for test in wanted if test not in left_out)
    return tuple(f"{function}[{variant}]" for function in functions for variant in ids.get(function, [name]))


def list_left_out(offer: SubjectOffer) -> dict[str, str]:
    """Return the tests that an offer leaves out, each with the reason."""
    reasons = {
        GRADIENTS_TEST: "" if offer.gradients else NO_GRADIENTS,
        "test_conversion": "" if offer.converts else "the subject reads the Hugging Face directory itself",
        **dict.fromkeys(TRAINING_TESTS, "" if offer.layouts else NO_TRAINING),
        "test_hub_model_conversion": "" if offer.exports else NO_EXPORT,
        SERVED_TEST: "" if offer.exports else NO_EXPORT,
    }
    return {test: reason for test, reason in reasons.items() if reason}


def list_variant_tests(subject: str, name: str, checkpoint_format: str) -> dict[str, Variant]:
    """Return the variants of the registry entry `name` by test id."""
    tests = {}
    for variant in find_offer(subject).variants_of(checkpoint_format):
        if variant.axis == MOE_AXIS:
            tests[f"test_moe_implementation[{variant.name}-{name}]"] = variant
        else:
            tests[f"test_implementation[{variant.axis}-{variant.name}-{name}]"] = variant
    for layout in find_offer(subject).layout_variants:
        tests[f"test_implementation[{layout.axis}-{layout.name}-{name}]"] = layout
    return tests


def list_variant_names(*others: SubjectOffer) -> Mapping[str, tuple[str, ...]]:
    """Return every variant's name by axis, for the fixtures that carry these names.

    Those of this package's subjects, and of the `others`.
    """
    offers = (*(adapter.offer for adapter in ADAPTERS.values()), *others)
    variants = [variant for offer in offers for variant in offer.variants]
    axes = dict.fromkeys(variant.axis for variant in variants)
    return {axis: tuple(dict.fromkeys(v.name for v in variants if v.axis == axis)) for axis in axes}
