"""What a report shows of a served export, and whose part of a mismatch is whose."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.tolerances import SERVED_TOLERANCE
from ci.evidence import Measure, ServedGap
from ci.report.html_page import render_html
from ci.report.markdown import render_markdown
from ci.report.served_section import (
    EXPLANATION,
    describe_served,
    find_token_limit,
    make_served_section,
)
from tests.ci.report.samples import Fault, make_results, plan_of, served_evidence

if TYPE_CHECKING:
    from ci.report.results import Results

TEST = "test_served_export[smollm2]"
FIGURES = {
    "bfloat16.served_original_max": 0.02,
    "bfloat16.served_export_max": 0.9,
    "bfloat16.served_greedy_equal": 0.5,
    "bfloat16.served_original_flips": 3.0,
    "bfloat16.served_export_flips": 4.0,
    "bfloat16.trainer_rollout_rms": 0.0089,
    "bfloat16.trainer_hugging_face_rms": 0.0093,
    "bfloat16.hugging_face_rollout_rms": 0.0081,
    "bfloat16.trainer_rollout_engine_share": 0.36,
}
NOTE = "batch, bfloat16: 3 tokens of the original and 4 of the export are explained by another choice of experts"


def scored(dtype: str, *, error: float, passed: bool = True) -> Measure:
    return Measure(
        "served.logprobs", dtype, (2, 64), error, 0.012, floor=0.01, passed=passed, case="batch", token_limit=0.05
    )


def served(**changes: Any) -> Results:
    measures = (
        scored("float32", error=0.01),
        scored("bfloat16", error=0.01),
        Measure("served.greedy", "bfloat16", (2, 24), 0.0, 0.1, case="greedy"),
    )
    coverage = {
        "served by": "vllm 0.32.0 (torch 2.13.0); engine: in this process",
        "served batch invariance": "not offered on CPU",
        "other": "not the engine's",
    }
    gap = ServedGap("batch", "bfloat16", (0, 2, 4), (0.0, 0.01, 0.02), (0.0, 0.01, 0.9))
    own = {"measures": measures, "coverage": coverage, "figures": FIGURES, "notes": (NOTE,), "served": (gap,)}
    evidence = served_evidence(**{**own, **changes})
    return make_results(plan_of("smollm2", consumer="vllm"), {TEST: Fault(None, evidence=evidence)})


def test_a_section_has_the_engine_the_inputs_and_both_parts_of_the_mismatch() -> None:
    section = make_served_section(served().entries[0])
    assert section is not None
    assert section.title == "Served by vllm 0.32.0"
    assert [name for name, _ in section.facts] == ["served by", "served batch invariance"]
    assert [(row.dtype, row.name, row.original, row.share) for row in section.inputs] == [
        ("float32", "batch", "0.01", "83 %"),
        ("bfloat16", "batch", "0.01", "83 %"),
        ("bfloat16", "greedy tokens", "", "<1 %"),
    ]
    (row,) = section.mismatch
    assert (row.total, row.engine_share, row.trainer_share) == ("0.0089", "36 %", "64 %")
    assert section.dtypes[1].largest == "0.02 → 0.9"
    assert (section.dtypes[1].greedy, section.dtypes[1].flips) == ("50 %", "3 → 4")
    assert section.dtypes[0].flips == "", "a dense model has none"


def test_the_page_explains_the_number_and_links_to_the_layers() -> None:
    html = render_html(served())
    assert EXPLANATION.replace("'", "&#39;") in html
    assert "served batch invariance: not offered on CPU" in html
    assert NOTE in html
    (target,) = re.findall(r'<a href="#(layers-\d+)">error by layer</a>', html)
    assert f'<h3 id="{target}">Error by layer</h3>' in html
    assert html.count("limit of a single token") == 1
    assert "served_export, bfloat16" not in html, "an engine's scores have no layers: no chart by layer"


def test_the_explanation_is_five_sentences_with_the_rules_own_numbers() -> None:
    assert len(re.findall(r"[.]( |$)", EXPLANATION)) == 5
    assert f"{SERVED_TOLERANCE:g} times that floor" in EXPLANATION
    assert f"{1 / SERVED_TOLERANCE:.0%}" in EXPLANATION


def test_the_comment_has_three_lines() -> None:
    lines = describe_served(served().entries[0])
    assert lines[0] == "Served by vllm 0.32.0, batch invariance not offered on CPU"
    assert len(lines) == 3
    assert "of whose square 36 % is Hugging Face's own gap to the engine and 64 % the trainer's" in lines[2]
    assert all(line.split(":")[0] in render_markdown(served()) for line in lines)


def test_nothing_served_has_no_section() -> None:
    (entry,) = make_results(plan_of("smollm2")).entries
    assert make_served_section(entry) is None
    assert describe_served(entry) == ()
    assert "Served by" not in render_html(make_results(plan_of("smollm2")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
def test_hostile_figures_are_shown_and_break_nothing(value: float) -> None:
    html = render_html(served(figures=dict.fromkeys(FIGURES, value)))
    assert "Served by vllm 0.32.0" in html


def test_the_limit_of_a_token_is_that_of_the_drawn_input() -> None:
    case = served().case("smollm2", TEST)
    assert case is not None
    assert case.evidence is not None
    (gap,) = case.evidence.served
    assert find_token_limit(case.evidence, gap) == 0.05
    assert find_token_limit(case.evidence, replace(gap, case="long")) is None
