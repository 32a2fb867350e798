"""Which tests share a chart: only those with the same tensors, verdicts and nearly the same errors."""

from __future__ import annotations

from dataclasses import replace

from ci.report.chart_groups import COINCIDE, do_coincide, group_charts
from tests.ci.report import samples

SOME = samples.measures()


def test_near_errors_coincide() -> None:
    assert do_coincide(SOME, SOME)
    assert do_coincide(SOME, [replace(one, error=one.error * (COINCIDE - 0.01)) for one in SOME])
    assert do_coincide([replace(SOME[0], error=0.0)], [replace(SOME[0], error=0.0)])


def test_others_do_not() -> None:
    one = SOME[3]
    for other in (
        replace(one, error=one.error * (COINCIDE + 0.01)),
        replace(one, limit=one.limit * 2),
        replace(one, tensor="other"),
        replace(one, passed=False),
        replace(one, error=0.0),
        replace(one, error=float("nan")),
    ):
        assert not do_coincide([one], [other])
    assert not do_coincide(SOME, SOME[:-1])


def test_a_failing_test_comes_first_and_stays_alone() -> None:
    plan = samples.plan_of("mixtral")
    failing = "test_moe_implementation[dropless-mixtral]"
    (entry,) = samples.make_results(plan, {failing: samples.mismatch(moe=True)}).entries
    first, *others = group_charts(entry)
    assert first.tests == ("moe_implementation dropless",)
    assert all("moe_implementation dropless" not in group.tests for group in others if group.dtype == "float32")
