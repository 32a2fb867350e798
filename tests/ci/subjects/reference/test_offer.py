from __future__ import annotations

from ci.subjects.reference.attention import ATTENTION
from ci.subjects.reference.config_json import FAMILIES
from ci.subjects.reference.config_json_formats import READERS
from ci.subjects.reference.config_json_gemma4 import NAME as GEMMA4
from ci.subjects.reference.moe import MOE
from ci.subjects.reference.offer import OFFER


def test_the_offer_is_what_the_code_implements() -> None:
    assert {*OFFER.formats} == {*FAMILIES, *READERS}
    assert OFFER.names("attention") == tuple(ATTENTION)
    assert OFFER.names("moe") == tuple(MOE)
    assert OFFER.axis_formats["moe"] == {name for name, family in FAMILIES.items() if family.experts} | {GEMMA4}
    assert OFFER.dense_formats == {GEMMA4}


def test_the_first_of_each_axis_is_the_default() -> None:
    defaults = {variant.axis: variant.name for variant in OFFER.variants if variant.default}
    assert defaults == {axis: OFFER.names(axis)[0] for axis in ("attention", "moe")}
