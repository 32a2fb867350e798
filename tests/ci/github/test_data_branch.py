"""Lines appended to the data branch, against the stand-in for GitHub."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ci.errors import InfrastructureError
from ci.github import data_branch
from ci.github.client import Client
from tests.e2e.fake_github import Fault

if TYPE_CHECKING:
    from ci.github.api import ApiSettings
    from tests.e2e.contract import Contract
    from tests.e2e.fake_github import Request, State


def test_lines_are_appended_and_nothing_else_changes(client: Client, state: State) -> None:
    assert data_branch.read_files(client, "data", "history") == {}
    data_branch.append_lines(client, "data", {"history/a.jsonl": "1\n", "other/b": "x"}, "first")
    data_branch.append_lines(client, "data", {"history/a.jsonl": "2\n", "history/c.jsonl": "3\n"}, "second")
    assert state.files("data") == {"history/a.jsonl": "1\n2\n", "history/c.jsonl": "3\n", "other/b": "x"}
    files = data_branch.read_files(client, "data", "history", suffix=".jsonl")
    assert files == {"history/a.jsonl": "1\n2\n", "history/c.jsonl": "3\n"}
    assert list(data_branch.read_files(client, "data", "history", newest=1)) == ["history/c.jsonl"]


def test_a_push_that_came_between_is_not_lost(client: Client, state: State) -> None:
    data_branch.append_lines(client, "data", {"a": "1\n"}, "first")
    others = iter("23")

    def push(request: Request) -> None:
        """Somebody else's push, just before ours."""
        if request.method == "PATCH" and (line := next(others, None)):
            head = state.refs["heads/data"]
            nodes = dict(state.objects[state.objects[head]["tree"]])
            nodes["a"] = state.put(state.objects[nodes["a"]] + line + "\n")
            state.refs["heads/data"] = state.put({"tree": state.put(nodes), "parents": [head], "message": "theirs"})

    state.before = push
    data_branch.append_lines(client, "data", {"a": "ours\n"}, "ours")
    assert state.files("data")["a"] == "1\n2\n3\nours\n"


def test_two_that_make_the_branch_at_once(client: Client, state: State) -> None:
    def make(request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/git/refs") and "heads/data" not in state.refs:
            tree = state.put({"a": state.put("theirs\n")})
            state.refs["heads/data"] = state.put({"tree": tree, "parents": [], "message": "theirs"})

    state.before = make
    data_branch.append_lines(client, "data", {"a": "ours\n"}, "ours")
    assert state.files("data")["a"] == "theirs\nours\n"


def test_a_race_that_never_ends_is_given_up(client: Client, state: State, github: Contract) -> None:
    data_branch.append_lines(client, "data", {"a": "1\n"}, "first")
    github.fake.faults.append(Fault("PATCH", ".*", 422, times=100))
    with pytest.raises(InfrastructureError, match="pushes in a row came in between"):
        data_branch.append_lines(client, "data", {"a": "2\n"}, "second")
    assert state.files("data")["a"] == "1\n"


def test_writers_at_once_lose_nothing(api: ApiSettings, state: State) -> None:
    def write(number: int) -> None:
        with Client(api) as own:
            data_branch.append_lines(own, "data", {"a": f"{number}\n"}, "line")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(state.files("data")["a"].split()) == ["0", "1", "2"]
