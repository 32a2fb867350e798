from __future__ import annotations

from ci.report.identities import describe_isolation, label_subject
from ci.report.markdown import render_markdown
from tests.ci.report.samples import Fault, make_results, plan_of


def test_a_warning_about_isolation_is_short_and_names_whose_word_the_result_is() -> None:
    evidence = {"isolation": f"none: {'@octocat ' * 100}"}
    faults = {test: Fault(evidence=evidence) for test in plan_of("smollm2").entries[0].tests}
    warning, fact = describe_isolation(make_results(plan_of("smollm2", trigger="cli", pull_request=None), faults))
    assert warning.endswith(": this result is the subject's own word.")
    assert len(warning) < 200
    assert fact == ""
    text = render_markdown(make_results(plan_of("smollm2"), faults), 2_000)
    assert text.splitlines()[2].startswith("**Not isolated (`@octocat` ")


def test_an_adapters_file_is_called_without_its_directory() -> None:
    assert label_subject("/home/me/toy_adapter.py:ToySubject") == "toy_adapter.py:ToySubject"
    assert label_subject("fast_llm") == "fast_llm"
