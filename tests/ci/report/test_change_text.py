from ci.report.change_text import describe_drift, list_fixed_tests, summarize_changes
from ci.report.results import EntryResult
from tests.ci.report.samples import make_results, mismatch, nights, plan_of
from tests.ci.report.single_model import CONVERSION, FORWARD


def test_without_a_baseline_nothing_changed_and_nothing_is_said() -> None:
    assert summarize_changes(make_results(plan_of("smollm2"), {FORWARD: mismatch()})) == ""


def test_changes_are_counted_by_kind_and_fixed_tests_are_listed() -> None:
    plan = plan_of("smollm2")
    results = make_results(plan, {FORWARD: mismatch()}, baseline=nights(plan, {CONVERSION: mismatch()}))
    assert summarize_changes(results) == "1 test newly failing · 1 fixed"
    assert list_fixed_tests(results) == [CONVERSION]


def test_a_baseline_like_the_run_says_that_nothing_changed() -> None:
    plan = plan_of("smollm2")
    assert summarize_changes(make_results(plan, baseline=nights(plan, {}))) == "nothing changed"


def test_the_first_entry_that_drifted_is_described() -> None:
    drifted = EntryResult("b", "passed", (), drift={"torch": "2.12.0 → 2.13.0", "commit": "1a → 2b"})
    assert describe_drift([EntryResult("a", "passed", ()), drifted]) == "torch 2.12.0 → 2.13.0; commit 1a → 2b"
    assert describe_drift([]) == ""
