from __future__ import annotations

import pytest

from ci.subjects.base import Differentiable, Variant
from ci.subjects.offer import SubjectOffer
from ci.subjects.registry import ADAPTERS, Adapter

EAGER, LOOPED = Variant("attention", "eager"), Variant("moe", "looped")
OFFER = SubjectOffer(
    "subject", "package", ("dense", "sparse"), (EAGER, LOOPED), axis_formats={"moe": frozenset({"sparse"})}
)


def test_an_axis_of_some_formats_is_offered_for_them_alone() -> None:
    assert OFFER.variants_of("sparse") == (EAGER, LOOPED)
    assert OFFER.variants_of("dense") == (EAGER,)


def test_names_are_those_of_one_axis() -> None:
    assert OFFER.names("moe") == ("looped",)
    assert OFFER.names("none") == ()


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=list(ADAPTERS))
def test_an_offer_says_whether_the_subject_can_train(adapter: Adapter) -> None:
    assert adapter.offer.gradients is isinstance(adapter.create(), Differentiable)
