"""What the service remembers in its comment survives, whatever stands around it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.github.status_comment import (
    KEPT_RUNS,
    MARKERS,
    MAX_STATE_CHARS,
    CommentState,
    LastResult,
    StartedRun,
    format_reply,
    format_status_comment,
    read_state,
)
from ci.hub.slices import Slice

RUN = StartedRun(5, 11, "a" * 40, ("mixtral", "mistral"), "auto")
LAST = LastResult(4, "b" * 40, ("mixtral",), ("mixtral",))

states = st.builds(
    CommentState,
    runs=st.lists(st.builds(StartedRun, st.integers(0), st.integers(0), st.text(), st.tuples(st.text()))).map(tuple),
    last=st.none() | st.builds(LastResult, st.integers(0), st.text(), st.tuples(st.text()), st.just(())),
)


@given(st.text(st.characters(codec="utf-8")), states)
def test_the_state_is_read_back_from_around_any_text(text: str, state: CommentState) -> None:
    body = format_status_comment(text.replace("<!--", ""), state)
    assert read_state(body) == state
    assert body.split("\n", 1)[0] == MARKERS["status"]


def test_runs_come_and_go() -> None:
    state = CommentState().add_run(RUN).add_run(replace(RUN, run_id=6)).add_run(RUN)
    assert [run.run_id for run in state.runs] == [6, 5]
    done = state.set_result(replace(LAST, run_id=6))
    assert [run.run_id for run in done.runs] == [5]
    assert done.last is not None
    for number in range(100):
        state = state.add_run(replace(RUN, run_id=number))
    assert len(state.runs) == KEPT_RUNS


def test_the_same_request_has_the_same_key() -> None:
    assert RUN.key == replace(RUN, run_id=9, comment_id=9, models=("mistral", "mixtral")).key
    assert RUN.key != replace(RUN, layers=2).key
    assert (
        len({replace(RUN, layers=layers, slice=part).key for layers in (2, (0, 1)) for part in (None, Slice(9))}) == 4
    )


def test_a_state_too_large_forgets_the_oldest_runs_first() -> None:
    many = [tuple(f"{random.getrandbits(128):x}" for _ in range(30)) for _ in range(KEPT_RUNS)]
    state = CommentState(tuple(replace(RUN, run_id=n, models=names) for n, names in enumerate(many)), LAST)
    body = format_status_comment("text", state)
    assert len(body) < MAX_STATE_CHARS + 200
    parsed = read_state(body)
    assert parsed.last == LAST
    assert parsed.runs
    assert parsed.runs == state.runs[-len(parsed.runs) :]


def test_a_last_result_too_large_is_forgotten_rather_than_the_comment_refused() -> None:
    names = tuple(f"{random.getrandbits(250):x}" for _ in range(256))
    body = format_status_comment("text", CommentState((RUN,), replace(LAST, models=names, failed=names)))
    assert len(body) < MAX_STATE_CHARS + 200
    assert read_state(body) == CommentState()


@pytest.mark.parametrize(
    "body",
    [
        None,
        "",
        "no state",
        "<!-- hub-tests:state  -->",
        "<!-- hub-tests:state e30 -->",
        "<!-- hub-tests:state bnVsbA== -->",
    ],
)
def test_nonsense_is_no_state(body: str | None) -> None:
    assert read_state(body) == CommentState()


def test_an_answer_has_no_state() -> None:
    assert read_state(format_reply("hello")) == CommentState()
