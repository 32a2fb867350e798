"""The Markdown report: whole texts against golden files, and what holds for any run and any limit.

After a wanted change:  python -m tests.ci.report.test_markdown  writes the golden files anew; read their diff.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci.report.build_results import build_results
from ci.report.headline import format_title
from ci.report.html_page import render_html
from ci.report.labels import ICONS
from ci.report.limits import COMMENT_CHARS, SUMMARY_BYTES
from ci.report.markdown import render_markdown
from ci.report.results import Job, Results
from ci.report.truncate_markdown import count_bytes, count_characters
from tests.ci.report import samples
from tests.ci.report.github_markdown import parse_markdown
from tests.ci.report.samples import RUN_URL, Fault, make_results, plan_of
from tests.ci.report.single_model import FORWARD
from tests.ci.report.test_escape import hostile

GOLDEN = Path(__file__).with_name("golden")
RUNS = ("passing", "failing", "mixed", "crashed", "huge", "hostile", "neutral")


@cache
def run(name: str) -> Results:
    """One of the runs, run_results once for all tests."""
    results: Results = getattr(samples, name)()
    return results


def golden(name: str) -> str:
    """A run's report as a comment; the huge one within less, so that its file can be read."""
    return render_markdown(run(name), 20_000 if name == "huge" else COMMENT_CHARS)


@pytest.mark.parametrize("name", RUNS)
def test_golden(name: str) -> None:
    assert golden(name) == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RUNS)
def test_a_report_is_complete_and_has_no_active_content(name: str) -> None:
    results = run(name)
    shown = parse_markdown(render_markdown(results))
    assert shown.open_folds == 0
    assert not shown.html
    assert not shown.images
    assert not shown.active
    assert all(url.startswith(RUN_URL) for url in shown.links)


@pytest.mark.parametrize("name", RUNS)
def test_the_verdict_comes_first_and_says_why(name: str) -> None:
    results = run(name)
    first = render_markdown(results).splitlines()[0]
    assert first.startswith(f"## {ICONS[results.verdict]} {format_title(results)}")
    assert (": " in first.removeprefix("## ")) == bool(results.causes) or name == "passing"


def test_the_first_line_names_layer_operation_component_and_figure() -> None:
    first = render_markdown(run("failing")).splitlines()[0]
    for part in ("layer 1", "attention", "rotary embedding", "conversion", "(4,000 x the limit)"):
        assert part in first


def test_a_long_cause_is_cut_in_headings_and_told_in_full_once() -> None:
    said = "layer 3, MLP: " + "the gate and the up projection have changed places in every expert, " * 3 + "the end"
    wrong = {**samples.wrong_forward(), "diagnosis": said}
    text = render_markdown(make_results(plan_of("smollm2"), {FORWARD: Fault("failure", "x", "x", wrong)}))
    heading, cause = (line for line in text.splitlines() if "4,000 x the limit)" in line)
    assert max(len(heading), len(cause.split("<br>")[0])) < 160, "no heading of more than two lines"
    assert text.count("the end") == 1


def test_models_that_fail_by_the_same_cause_are_one_row_to_open() -> None:
    models = {f"m{n:02d}": replace(samples.MODELS["smollm2"], name=f"m{n:02d}") for n in range(12)}
    plan = plan_of("*", models={**models, "mixtral": samples.MODELS["mixtral"], "mistral": samples.MODELS["mistral"]})
    faults = {f"test_forward_equivalence[{name}]": samples.mismatch() for name in models}
    lost = Fault("failure", "x", "x", {"failure_class": "missing_tensor", "diagnosis": "lm_head is missing"})
    results = make_results(plan, {**faults, "test_conversion[mixtral]": lost})
    for text in (render_markdown(results), render_html(results)):
        rows = re.findall(r"<summary>[^<]*(?:<b>)?[^<]*12 models (?:that )?fail by the same cause", text)
        assert len(rows) == 1
    shown = render_markdown(results)
    assert shown.count("<summary>❌ tests of") == 2
    assert all(f"`test_conversion[{name}]`" in shown for name in models)


@pytest.mark.parametrize(
    ("limit", "size"), [(COMMENT_CHARS, count_characters), (SUMMARY_BYTES, count_bytes), (30_000, count_characters)]
)
def test_a_huge_run_keeps_verdict_and_every_failing_name(limit: int, size: object) -> None:
    huge = run("huge")
    text = render_markdown(huge, limit, size=size)  # type: ignore[arg-type]
    assert size(text) <= limit  # type: ignore[operator]
    assert text.splitlines()[0].startswith("## ❌ Failed: 256 of 256 models")
    assert ("left out" in text) == (limit < SUMMARY_BYTES)
    for entry in huge.entries:
        assert f"`{entry.name}`" in text
    assert parse_markdown(text).open_folds == 0


def test_a_comment_of_the_largest_run_names_every_failing_test() -> None:
    huge = run("huge")
    shown = parse_markdown(render_markdown(huge))
    for step in {case.step for entry in huge.entries for case in entry.cases}:
        assert step in shown.code


@pytest.mark.parametrize("name", ["failing", "mixed", "hostile", "crashed"])
@pytest.mark.parametrize("limit", range(150, 7000, 850))
def test_any_limit_is_kept_and_no_block_is_cut(name: str, limit: int) -> None:
    results = run(name)
    text = render_markdown(results, limit)
    assert count_characters(text) <= limit
    assert text.startswith(f"## {ICONS[results.verdict]} {format_title(results)}")
    shown = parse_markdown(text)
    assert shown.open_folds == 0
    assert not shown.active
    if limit > 1500:
        assert all(entry.name in text for entry in results.entries if entry.verdict == "failed")


def test_detail_goes_in_a_fixed_order() -> None:
    results = run("mixed")
    whole = render_markdown(results)
    parts = {
        "passing models' tests": "✅ tests of <code>mistral</code>",
        "environment": "<summary>Environment</summary>",
        "tracebacks": "<summary>output of",
        "failing models' tests": "❌ tests of",
        "table of models": "### Models",
        "figures": "- reproduce:",
    }
    assert all(part in whole for part in parts.values())
    gone: list[str] = []
    for limit in range(count_characters(whole), 500, -40):
        text = render_markdown(results, limit)
        gone += [name for name, part in parts.items() if part not in text and name not in gone]
    assert gone == list(parts)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(hostile, hostile, hostile), min_size=1, max_size=3), st.integers(250, 9000))
def test_no_text_of_a_test_breaks_the_report(texts: list[tuple[str, str, str]], limit: int) -> None:
    plan = plan_of("smollm2")
    faults: dict[str, Fault | None] = {
        test: Fault("failure", xml(message), xml(detail), {"diagnosis": diagnosis, "failure_class": "other"})
        for test, (message, detail, diagnosis) in zip(plan.entries[0].tests, texts, strict=False)
    }
    results = make_results(plan, faults)
    text = render_markdown(results, limit)
    shown = parse_markdown(text)
    assert count_characters(text) <= limit
    assert text.startswith("## ❌ Failed: 1 of 1 model, ")
    assert shown.open_folds == 0
    assert not shown.active
    assert not shown.html
    assert not shown.images
    assert all(url.startswith(RUN_URL) for url in shown.links)


def xml(text: str) -> str:
    """What can stand in XML at all; pytest writes the rest as #x1B."""
    return (
        "".join(char for char in text if char in "\t\n" or (char >= " " and not "\ud800" <= char <= "\udfff"))
        .replace("\ufffe", "")
        .replace("\uffff", "")
    )


def test_only_addresses_of_the_platform_become_links() -> None:
    plan = plan_of("smollm2", run_url="https://evil.example/)[x](y")
    job = Job("failure", url="javascript:alert(1)")
    shown = parse_markdown(render_markdown(build_results(plan, {}, {"smollm2": job})))
    assert not shown.links
    good = replace(job, url=f"{RUN_URL}/job/1")
    assert parse_markdown(render_markdown(build_results(plan_of("smollm2"), {}, {"smollm2": good}))).links == [
        RUN_URL,
        f"{RUN_URL}/job/1",
    ]


def test_margins_are_shown_while_green() -> None:
    assert "| ✅ passed | 7 of 7 | 43 %, was 43 % |" in render_markdown(run("passing"))


if __name__ == "__main__":
    for one in RUNS:
        (GOLDEN / f"{one}.md").write_text(golden(one), encoding="utf-8")
