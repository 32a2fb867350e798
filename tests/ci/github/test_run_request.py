"""Event and inputs into the request: what each event may ask for, and at which commit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci.errors import RequestError
from ci.github.context import Context, read_context
from ci.github.event import parse_event
from ci.github.gate_input import PullRequest
from ci.github.run_request import (
    choose_head,
    choose_scope,
    make_run_request,
    may_fill_compile_cache,
    parse_layers_input,
)
from ci.hub.slices import Slice
from ci.plan import RunRequest
from tests.e2e import events

HEAD = "1" * 40
PULL = PullRequest(7, True, HEAD, "o/r", "o/r")
FORK = PullRequest(7, True, HEAD, "mallory/r", "o/r")


def context(**inputs: Any) -> Context:
    return read_context(
        {
            "GITHUB_REPOSITORY": "octo-org/framework",
            "GITHUB_RUN_ID": "777",
            "GITHUB_ACTOR": "alice",
            "HUB_TESTS_INPUTS": json.dumps(inputs),
        }
    )


def asked(name: str, payload: dict[str, Any], **inputs: Any) -> RunRequest:
    return make_run_request(parse_event(name, json.dumps(payload).encode()), context(**inputs))


def test_a_comment_through_the_gate() -> None:
    gated = {
        "models": "mixtral mistral",
        "layers": "auto",
        "pull-request": 7,
        "subject-ref": HEAD,
        "subject": "reference",
    }
    request = asked("issue_comment", events.comment("/run-hub-tests"), **gated)
    assert request == RunRequest(
        "issue_comment",
        ("mixtral", "mistral"),
        layers="auto",
        subject="reference",
        repository="octo-org/framework",
        subject_repository="octo-org/framework",
        subject_ref=HEAD,
        sha=HEAD,
        pull_request=7,
        actor="alice",
        comment_id=3300000011,
        run_id=777,
        run_url="https://github.com/octo-org/framework/actions/runs/777",
    )
    assert choose_scope(request) == "pull-requests"


@pytest.mark.parametrize(
    "inputs", [{}, {"pull-request": 8, "subject-ref": HEAD}, {"pull-request": 7, "subject-ref": "main"}]
)
def test_a_comment_past_the_gate_is_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="only through the gate"):
        asked("issue_comment", events.comment("/run-hub-tests"), **inputs)


def test_a_tick_and_a_dispatch() -> None:
    tick = asked("schedule", events.schedule())
    assert (tick.trigger, tick.models, tick.sha, tick.pull_request, choose_scope(tick)) == (
        "schedule",
        (),
        "",
        None,
        "main",
    )
    inputs = {
        "models": "@moe",
        "layers": "3",
        "slice": "experts=4",
        "deep": "true",
        "pull-request": "0",
        "subject-repository": "a/b",
    }
    request = asked("workflow_dispatch", events.dispatch(), **inputs)
    assert request.slice == Slice(experts=4)
    assert (request.models, request.layers, request.deep, request.subject_repository) == (("@moe",), 3, True, "a/b")
    assert request.consumer is None
    assert asked("workflow_dispatch", events.dispatch(), **inputs, consumer="vllm").consumer == "vllm"


def may_fill(name: str, payload: dict[str, Any], **inputs: Any) -> bool:
    event = parse_event(name, json.dumps(payload).encode())
    return may_fill_compile_cache(event, make_run_request(event, context(**inputs)))


def test_only_the_default_branch_fills_the_compile_cache() -> None:
    assert may_fill("schedule", events.schedule())
    assert may_fill("schedule", events.schedule(), **{"subject-repository": "a/b"})
    assert may_fill("workflow_dispatch", events.dispatch())
    assert not may_fill("workflow_dispatch", {**events.dispatch(), "ref": "refs/heads/feature"})
    assert not may_fill("workflow_dispatch", {**events.dispatch(), "ref": "refs/tags/main"})
    assert not may_fill("schedule", events.schedule(), **{"subject-ref": "feature"})
    assert not may_fill("workflow_dispatch", events.dispatch(), **{"subject-ref": HEAD})
    assert not may_fill("workflow_dispatch", events.dispatch(), **{"pull-request": "7"})
    assert not may_fill("merge_group", events.merge_group(HEAD))
    gated = {"pull-request": 7, "subject-ref": HEAD}
    assert not may_fill("issue_comment", events.comment("/run-hub-tests"), **gated)


def test_a_pull_request_by_hand_could_poison_the_caches_that_a_night_reads() -> None:
    with pytest.raises(RequestError, match="by its comment"):
        asked("workflow_dispatch", events.dispatch(), **{"pull-request": "7", "store": "cache"})
    with pytest.raises(RequestError, match="input store: 's3' is not one of directory, url, cache"):
        asked("workflow_dispatch", events.dispatch(), store="s3")
    gated = {"pull-request": 7, "subject-ref": HEAD, "store": "cache"}
    assert asked("issue_comment", events.comment("/run-hub-tests"), **gated).pull_request == 7


def test_a_subject_repository_that_is_none() -> None:
    with pytest.raises(RequestError, match="is not owner/name"):
        asked("schedule", events.schedule(), **{"subject-repository": "https://evil"})


def test_a_pull_request_by_hand_is_held_to_the_same_rule() -> None:
    assert choose_head(RunRequest(pull_request=7), PULL) == HEAD
    assert choose_head(RunRequest(pull_request=7, subject_ref=HEAD), FORK) == HEAD
    for pull, ref in ((FORK, ""), (FORK, "feature"), (PULL, "2" * 40)):
        with pytest.raises(RequestError, match=f"its head is {HEAD}"):
            choose_head(RunRequest(pull_request=7, subject_ref=ref), pull)


@pytest.mark.parametrize(("text", "layers"), [("", None), ("auto", "auto"), ("12", 12), ("0,3", (0, 3))])
def test_layers(text: str, layers: Any) -> None:
    assert parse_layers_input(text) == layers


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "9999", "\u0661"])
def test_layers_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="input layers"):
        parse_layers_input(text)
