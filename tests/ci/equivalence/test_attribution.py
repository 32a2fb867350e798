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
    ],
)
def test_the_evidence_decides(evidence: AttributionEvidence, component: str) -> None:
    assert attribute(evidence).name == component


def test_a_long_list_of_wrong_keys_is_shortened() -> None:
    evidence = AttributionEvidence(wrong_tensors=("a", "b"), wrong_keys=("c", "d", "e"))
    assert attribute(evidence).reason == "a; b; c and 2 more"
