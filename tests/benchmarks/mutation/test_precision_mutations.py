"""Mistakes of precision are results at their operation; right orders of roundings are not results at all."""

from __future__ import annotations

import pytest

from benchmarks.mutation.precision_mutations import PRECISION_MUTATIONS
from benchmarks.precision import is_located, run_clean, run_mistakes


def test_twelve_mistakes_of_five_kinds() -> None:
    assert len({mutation.name for mutation in PRECISION_MUTATIONS}) >= 12
    assert len({mutation.bug_class for mutation in PRECISION_MUTATIONS}) >= 5


def test_words_are_read_back() -> None:
    router = next(mutation for mutation in PRECISION_MUTATIONS if mutation.bug_class == "router")
    assert is_located(router, "precision: mlp.router_scores in layer 2 is right but imprecise: …")
    assert not is_located(router, "precision: mlp.router_scores in layer 1 is right but imprecise: …")
    assert not is_located(router, "")


@pytest.mark.long
def test_every_mistake_is_told_at_its_operation() -> None:
    results = list(run_mistakes("moe", "bfloat16"))
    assert len(results) == len(PRECISION_MUTATIONS)
    assert [result.mutation.name for result in results if not result.located] == []


@pytest.mark.long
def test_right_implementations_are_clean() -> None:
    runs = list(run_clean("dense", "float16", 5))
    assert sum(count for count, _ in runs) >= 400
    assert [alarm for _, alarms in runs for alarm in alarms] == []
