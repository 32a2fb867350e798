from __future__ import annotations

import pytest

from ci.report.change_text import list_fixed_tests
from ci.report.headline import format_title, split_diagnosis
from tests.ci.report.samples import Fault, make_results, mismatch, nights, plan_of
from tests.ci.report.single_model import CONVERSION, FORWARD


def test_the_verdict_says_whether_anything_is_new() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    before = nights(plan, {FORWARD: mismatch(), CONVERSION: oom})
    known = make_results(plan, {FORWARD: mismatch()}, baseline=before)
    assert format_title(known) == "Failed: 1 of 1 model, 1 cause (none new)"
    assert list_fixed_tests(known) == [CONVERSION]
    assert format_title(make_results(plan, {FORWARD: oom}, baseline=before)) == "Failed: 1 of 1 model, 1 cause (1 new)"
    assert format_title(make_results(plan, {FORWARD: oom})) == "Failed: 1 of 1 model, 1 cause"


@pytest.mark.parametrize(
    ("sentence", "limit", "first", "rest"),
    [
        ("", 10, "", ""),
        ("layer 0: wrong", 9, "layer 0…", "layer 0: wrong"),
        ("layer 0: wrong", 5, "laye…", "layer 0: wrong"),
        ("layer 0: wrong; bb", 10, "layer 0…", "layer 0: wrong; bb"),
        ("aa; bb; cc", 6, "aa; bb", "cc"),
        ("aa; bb; cc", 5, "aa", "bb; cc"),
        ("aa; bb; cc", 99, "aa; bb; cc", ""),
    ],
)
def test_a_diagnosis_is_cut_between_its_clauses(sentence: str, limit: int, first: str, rest: str) -> None:
    assert split_diagnosis(sentence, limit) == (first, rest)
