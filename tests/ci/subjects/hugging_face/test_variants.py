"""The implementations of a model agree, and each is seen to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.ci.subjects.hugging_face.conftest import NAMES
from tests.ci.subjects.tiny import compare_traces

if TYPE_CHECKING:
    from ci.subjects.hugging_face import HuggingFace


@pytest.mark.parametrize("name", NAMES)
def test_legitimate_variants_agree_and_are_seen_to_run(name: str, make: Any, hugging_face: HuggingFace) -> None:
    exact = make(name, "exact", dtype="float64")
    hugging_face.trace(exact)
    variants = hugging_face.variants(exact.checkpoint)
    assert ("experts" in {v.axis for v in variants}) == (name == "mixtral")
    for variant in variants:
        request = make(name, f"{variant.axis}-{variant.name}", variant={variant.axis: variant.name})
        result = hugging_face.trace(request)
        assert result.ran[variant.axis] == variant.name
        assert 0 < max(compare_traces(request.output, exact.output).values()) < 1e-5
