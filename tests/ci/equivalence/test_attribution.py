"""Which component is faulty: independent evidence decides, and without any nothing is claimed."""

from __future__ import annotations

import pytest

from ci.equivalence import attribution
from ci.equivalence.attribution import AttributionEvidence, attribute


@pytest.mark.parametrize(
    ("evidence", "component"),
    [
        (AttributionEvidence(cross_check_agrees=True, wrong_tensors=()), attribution.KERNEL),
        (AttributionEvidence(cross_check_agrees=False), attribution.CONVERSION),
        (
            AttributionEvidence(cross_check_agrees=False, right_on_cross_conversion=True, wrong_tensors=("x",)),
            attribution.CONVERSION,
        ),
        (AttributionEvidence(cross_check_agrees=False, right_on_cross_conversion=False), attribution.BOTH),
        (AttributionEvidence(wrong_tensors=("x",)), attribution.CONVERSION),
        (AttributionEvidence(wrong_keys=("window",)), attribution.CONVERSION),
        (AttributionEvidence(wrong_tensors=(), wrong_keys=()), attribution.KERNEL),
        (AttributionEvidence(wrong_tensors=(), wrong_keys=None), attribution.UNKNOWN),
        (AttributionEvidence(), attribution.UNKNOWN),
        (AttributionEvidence(refused="embedding_scale 2.0"), attribution.UNKNOWN),
        (AttributionEvidence(right_on_cross_conversion=True), attribution.CONVERSION),
        (AttributionEvidence(wrong_tensors=(), right_on_cross_conversion=True), attribution.CONVERSION),
        (AttributionEvidence(right_on_cross_conversion=False, refused="x"), attribution.KERNEL),
        (AttributionEvidence(wrong_keys=("x",), right_on_cross_conversion=False), attribution.BOTH),
    ],
)
def test_the_evidence_decides(evidence: AttributionEvidence, component: str) -> None:
    assert attribute(evidence).name == component


def test_what_the_cross_check_refuses_is_named_as_what_the_conversion_wrote() -> None:
    evidence = AttributionEvidence(right_on_cross_conversion=True, refused="embedding_scale is 2.0")
    assert attribute(evidence).reason.endswith("; in its own conversion: embedding_scale is 2.0")


def test_a_long_list_of_wrong_keys_is_shortened() -> None:
    evidence = AttributionEvidence(wrong_tensors=("a", "b"), wrong_keys=("c", "d", "e"))
    assert attribute(evidence).reason == "a; b; c and 2 more"
