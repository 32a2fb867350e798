"""Failures as Markdown: by cause in full, by step, or as counts."""

from __future__ import annotations

from ci.report.markdown_failures import fold, list_causes, list_failing_steps, list_failure_counts
from tests.ci.report import samples
from tests.ci.report.github_markdown import parse_markdown


def test_a_cause_names_all_its_tests_and_keeps_them_when_detail_is_left_out() -> None:
    results = samples.failing()
    (heading, cause, figures, traceback) = list_causes(results)
    assert heading.text == "### Failures"
    assert cause.rank == 0
    assert all(f"`{test}`" in cause.text for _, test in results.causes[0].cases)
    assert "- reproduce: `hub-tests run smollm2 " in figures.text
    assert traceback.text.startswith("<details><summary>output of <code>test_forward_equivalence[smollm2]</code>")
    assert 0 < figures.rank < traceback.rank


def test_a_green_run_has_no_failures() -> None:
    assert list_causes(samples.passing()) == []


def test_models_that_fail_in_the_same_steps_share_a_line() -> None:
    (block,) = list_failing_steps(samples.failing())
    assert block.text.splitlines()[2:] == [
        "- `test_forward_equivalence` in `smollm2`, `mistral`",
        "- `test_forward_equivalence`, `test_moe_implementation` in `mixtral`",
    ]


def test_counts_name_each_model_that_did_not_pass() -> None:
    (block,) = list_failure_counts(samples.mixed())
    assert block.text.splitlines()[2] == "`smollm2` (1), `mixtral` (1)"


def test_a_hostile_name_cannot_leave_the_fold() -> None:
    shown = parse_markdown(fold("output of ", "</code></summary></details><b>x", "body"))
    assert shown.open_folds == 0
    assert not shown.html
