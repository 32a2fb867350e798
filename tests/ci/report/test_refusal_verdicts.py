"""A refusal as the registry knows it is neutral and named; anything else of the same model is what it was before."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ci.evidence import INFRASTRUCTURE
from ci.known_refusals import KnownRefusal, LeftOut
from ci.records import read_json, to_json
from ci.report.headline import format_title
from ci.report.history import make_history_records, read_history
from ci.report.html_page import render_html
from ci.report.markdown import render_markdown
from ci.report.nights import list_findings
from ci.report.refusal_verdicts import NO_REFUSAL, list_refusals
from ci.report.results import Job, Results, exit_code
from ci.report.support_matrix import DEEP_ONLY, build_support_matrix
from tests.ci.report import samples
from tests.ci.report.samples import Fault, make_results

if TYPE_CHECKING:
    from ci.plan import Plan

WORDS = "HF config has unknown key 'rope_interleaved' (value: False)"
SENTENCE = f"Fast-LLM, llama to fast_llm: ValueError: LlamaBaseModelConverter: {WORDS} (fast_llm/external.py:708)"
KNOWN = KnownRefusal("reference", WORDS, "2026-11-25", "https://example.com/finding")
DOWNLOAD, CONVERSION = "test_download_and_truncate[smollm2]", "test_conversion[smollm2]"


def plan_with(*names: str, refusal: KnownRefusal = KNOWN, **request: Any) -> Plan:
    """A plan in which smollm2 is known to be refused."""
    plan = samples.plan_of(*(names or ("smollm2", "mistral")), **request)
    known = {"smollm2": (refusal,)}
    entries = (replace(e, model=replace(e.model, known_refusals=known.get(e.name, ()))) for e in plan.entries)
    return replace(plan, entries=tuple(entries))


def refuse(sentence: str = SENTENCE, failure_class: str = "other") -> dict[str, Fault | None]:
    """A conversion that fails with this sentence; every later test is its consequence."""
    fault = Fault("failure", sentence, sentence, {"failure_class": failure_class, "diagnosis": sentence})
    later = tuple(test for test in plan_with("smollm2").entries[0].tests if test not in (DOWNLOAD, CONVERSION))
    return {CONVERSION: fault, **samples.chain("smollm2", "test_conversion", sentence, steps=later)}


def judge(faults: dict[str, Fault | None] | None, plan: Plan | None = None, **more: Any) -> Results:
    return make_results(plan or plan_with(), faults, **more)


def entry_of(results: Results) -> Any:
    entry = results.entry("smollm2")
    assert entry is not None
    return entry


def test_exactly_the_declared_words_are_neutral_and_blame_nobody() -> None:
    results = judge(refuse())
    entry = entry_of(results)
    assert (entry.verdict, entry.refusal) == ("neutral", "as_known")
    assert entry.label == "refused, as known since 2026-11-25: https://example.com/finding"
    assert {case.name: case.outcome for case in entry.cases}[CONVERSION] == "refused"
    assert (results.verdict, results.causes) == ("passed", ())
    assert (results.totals.models_refused, results.totals.models_neutral, results.totals.refused) == (1, 0, 1)
    assert format_title(results).startswith("Passed: 1 of 2 models, ")
    assert format_title(results).endswith("; 1 refused, as known")
    assert read_json(Results, to_json(results), what="report.json") == results


@pytest.mark.parametrize(
    "faults",
    [
        refuse("Fast-LLM, llama to fast_llm: ValueError: HF config has unknown key 'other'"),
        refuse(SENTENCE.upper()),
        refuse(SENTENCE.replace("False", "True")),
        refuse(f"{SENTENCE}, and of 'rope_theta'"),
        refuse(SENTENCE, "crash"),
        refuse(SENTENCE, "out_of_memory"),
        refuse(SENTENCE, "timeout"),
        refuse() | {"test_hub_model_conversion[smollm2]": samples.mismatch()},
        refuse() | {DOWNLOAD: Fault("failure", SENTENCE, SENTENCE, {"failure_class": "other"})},
        {"test_forward_equivalence[smollm2]": samples.mismatch()},
    ],
    ids=[
        "other words",
        "other case",
        "other value",
        "more words",
        "crash",
        "memory",
        "timeout",
        "another test",
        "download",
        "forward",
    ],
)
def test_a_different_failure_is_red(faults: dict[str, Fault | None]) -> None:
    results = judge(faults)
    entry = entry_of(results)
    assert (results.verdict, entry.verdict) == ("failed", "failed")
    assert not entry.refused_as_known
    assert all(case.outcome != "refused" for case in entry.cases)
    assert "1 cause" in format_title(results) or "causes" in format_title(results)


def test_the_words_of_another_subject_or_of_no_declaration_are_red() -> None:
    assert judge(refuse(), plan_with(refusal=replace(KNOWN, subject="fast_llm"))).verdict == "failed"
    assert judge(refuse(), samples.plan_of("smollm2", "mistral")).verdict == "failed"


@pytest.mark.parametrize("failure_class", ["known_refusal", "refused", *sorted(INFRASTRUCTURE)])
def test_no_evidence_can_say_that_a_model_was_refused(failure_class: str) -> None:
    """The registry alone decides: a class in the evidence makes a result no known refusal."""
    entry = entry_of(judge(refuse("something else", failure_class), samples.plan_of("smollm2", "mistral")))
    assert (entry.refusal, entry.refused_as_known) == ("", False)
    assert INFRASTRUCTURE <= NO_REFUSAL
    declared = entry_of(judge(refuse(SENTENCE, failure_class)))
    assert not (failure_class in INFRASTRUCTURE and declared.refused_as_known)


def test_a_missing_test_or_a_failed_job_is_no_known_refusal() -> None:
    results = judge(refuse() | {"test_hub_model_conversion[smollm2]": None})
    assert (results.verdict, entry_of(results).refusal) == ("failed", "differently")
    lost = judge(refuse() | {CONVERSION: None})
    assert (lost.verdict, entry_of(lost).refusal) == ("failed", "")
    job = {"smollm2": Job("success"), "mistral": Job("failure")}
    assert judge(refuse(), jobs=job).entries[1].verdict == "failed"


def test_what_is_no_longer_refused_counts_and_says_so() -> None:
    results = judge({})
    entry = entry_of(results)
    assert (results.verdict, entry.verdict, entry.refusal) == ("passed", "passed", "no_longer")
    said = "no longer refused: remove the registry's line known_refusals of reference (https://example.com/finding)"
    assert entry.notes == (said,)
    assert "no longer refused" in render_markdown(results)
    wrong = judge({"test_forward_equivalence[smollm2]": samples.mismatch()})
    assert (wrong.verdict, entry_of(wrong).refusal) == ("failed", "no_longer")


def test_a_refusal_in_other_words_names_the_one_that_is_known() -> None:
    entry = entry_of(judge(refuse("Fast-LLM: ValueError: something new")))
    assert entry.refusal == "differently"
    assert WORDS in entry.notes[-1]


def test_a_run_of_refusals_alone_proves_nothing() -> None:
    results = judge(refuse(), plan_with("smollm2"))
    assert (results.verdict, format_title(results)) == ("neutral", "No answer: 1 model refused, as known")
    assert exit_code(results) == 3
    assert exit_code(results, accept_known_refusals=True) == 0
    failed = judge(refuse("Fast-LLM: ValueError: something new"), plan_with("smollm2"))
    assert exit_code(failed, accept_known_refusals=True) == 1
    gated = judge(refuse("no access", "gated"), plan_with("smollm2"))
    assert exit_code(gated, accept_known_refusals=True) == 3


def test_each_view_names_the_refusal_and_what_is_left_out() -> None:
    plan = replace(plan_with(), left_out=(LeftOut("mixtral", KNOWN),))
    results = judge(refuse(), plan)
    for page in (render_markdown(results), render_html(results)):
        assert "refused, as known since 2026-11-25" in page.replace("`", "")
        assert "left out: mixtral, known to be refused by reference" in page.replace("`", "")
    assert [(entry.name, known) for entry, known in list_refusals(results)] == [("smollm2", KNOWN)]


def test_nights_keep_a_refusal_as_a_known_finding() -> None:
    plan = plan_with(trigger="schedule", pull_request=None)
    lines = [
        json.loads(to_json(record)) for record in make_history_records(judge(refuse(), plan), "2026-11-26T03:00:00Z")
    ]
    history = read_history([json.dumps(line) for line in lines])
    (finding,) = list_findings(history)
    assert WORDS in finding.headline
    assert finding.tests == (CONVERSION,)
    cells = build_support_matrix(
        [entry.model for entry in plan.entries], history, "reference", "2026-11-27T00:00:00Z"
    ).cells
    reasons = {cell.reason for cell in cells if cell.entry == "smollm2"} - {DEEP_ONLY}
    assert [reason[:18] for reason in reasons] == ["refused, as known:"]
