"""The context of a step, from the environment and the inputs of its workflow."""

from __future__ import annotations

import pytest

from ci.errors import RequestError
from ci.github.context import read_context, read_inputs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"subject": "x"}', "unknown subject 'x'"),
        ('{"subject": "here/x.py:X"}', "no job but the sandboxed one may load an adapter; put its description on the"),
        ('{"subject": "here.x:X"}', r"\(hub-tests subject describe here.x:X\), and name that file"),
        ('{"pull-request": "x"}', "pull_"),
        ('{"consumer": "vlm"}', "consumer"),
    ],
)
def test_inputs_that_are_none(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_inputs(text)


def test_inputs_of_other_matters_are_passed_over_and_variables_fill_in() -> None:
    inputs = read_inputs('{"runner": "[]", "subject": "", "models": null}', {"subject": "reference"})
    assert (inputs.subject, inputs.models) == ("reference", ())
    assert read_inputs("null").subject == "fast_llm"


def test_the_environment() -> None:
    inputs = read_context(
        {"HUB_TESTS_ALLOWED": " ann, bob\ncarl ", "GITHUB_SERVER_URL": "https://ghe/", "GITHUB_TOKEN": "t"}
    )
    assert inputs.allowed_logins == ("ann", "bob", "carl")
    assert (inputs.server_url, inputs.run_url, inputs.output_path) == ("https://ghe", "", None)
    assert "'t'" not in repr(inputs)
    with pytest.raises(RequestError, match="GITHUB_RUN_ID: expected a number"):
        read_context({"GITHUB_RUN_ID": "x"})


@pytest.mark.parametrize(
    ("event", "inputs", "deep"),
    [
        ("schedule", "null", True),
        ("schedule", '{"deep": false}', False),
        ("schedule", '{"deep": true}', True),
        ("workflow_dispatch", '{"deep": ""}', False),
        ("merge_group", "null", False),
    ],
)
def test_the_nightly_run_is_deep_unless_its_caller_says_no(event: str, inputs: str, deep: bool) -> None:
    assert read_context({"GITHUB_EVENT_NAME": event, "HUB_TESTS_INPUTS": inputs}).inputs.deep is deep


def test_the_engine_comes_from_the_input_or_the_variable() -> None:
    assert read_context({}).inputs.consumer is None
    assert read_context({"HUB_TESTS_CONSUMER": "vllm"}).inputs.consumer == "vllm"
    given = {"HUB_TESTS_CONSUMER": "vllm", "HUB_TESTS_INPUTS": '{"consumer": "transformers"}'}
    assert read_context(given).inputs.consumer == "transformers"


def test_the_policy_comes_from_the_input_or_the_variable() -> None:
    assert read_context({"HUB_TESTS_REQUIRED": "@moe smollm2"}).inputs.required == ("@moe", "smollm2")
    given = {"HUB_TESTS_REQUIRED": "@moe", "HUB_TESTS_INPUTS": '{"required": "mistral"}'}
    assert read_context(given).inputs.required == ("mistral",)
