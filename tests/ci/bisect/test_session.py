"""Bisections over synthetic histories: planted regressions are found, a kill costs nothing, the ends are checked."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.bisect.candidates import describe_commit, list_commits
from ci.bisect.session import Probed, Question, Session, format_outcome, open_session, run_session, save_session
from ci.errors import InfrastructureError, RequestError
from tests.ci.bisect.history import FILE, run_git, write_history

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORWARD, CONVERSION = "test_forward_equivalence[tiny]", "test_conversion[tiny]"


def make_probe(repository: Path, tried: list[str]) -> Callable[[str], Probed]:
    """Builds the stand-in subject of a commit, runs it, and compares what it computes."""

    def probe(commit: str) -> Probed:
        tried.append(commit)
        space: dict[str, Callable[[int], int]] = {}
        try:
            exec(run_git(repository, "show", f"{commit}:{FILE}"), space)
        except SyntaxError as problem:
            return Probed("skip", said=f"cannot be built: {problem.msg}")
        return Probed("good") if space["forward"](3) == 3 else Probed("bad", (FORWARD,), "3 became 4")

    return probe


def ask(repository: Path, commits: list[str]) -> Question:
    listed = list_commits(repository, commits[0], "main", {})
    assert list(listed) == commits[1:]
    return Question("tiny", "commits", commits[0], "main", listed, ("--device=cpu",))


@pytest.mark.parametrize("number", range(20))
def test_a_planted_regression_is_found(number: int, tmp_path: Path) -> None:
    chosen = random.Random(number)
    size = chosen.randint(3, 60)
    first_bad = chosen.randint(1, size - 1)
    places = [at for at in range(1, size - 1) if at not in (first_bad, first_bad - 1)]
    unbuildable = chosen.sample(places, min(len(places), chosen.choice((0, 0, 1, 3, 6))))
    commits = write_history(tmp_path / "subject", size, first_bad, unbuildable)
    tried: list[str] = []
    question = ask(tmp_path / "subject", commits)
    probe = make_probe(tmp_path / "subject", tried)
    done = run_session(Session(question), tmp_path / "state.json", probe, lambda _: None)
    assert done.search.find_culprits() == (commits[first_bad],)
    skipped = sum(probed.answer == "skip" for probed in done.runs.values())
    assert len(tried) == len(set(tried)) <= math.ceil(math.log2(size - 1)) + 1 + skipped
    told = format_outcome(done, lambda commit: describe_commit(tmp_path / "subject", commit, {}))
    assert re.match(rf"first bad: {commits[first_bad][:12]} \d{{4}}-\d\d-\d\d change {first_bad}\n", told)
    assert f"{len(tried)} runs of at most" in told


def test_a_kill_after_any_run_costs_nothing(tmp_path: Path) -> None:
    commits = write_history(tmp_path / "subject", 40, 23)
    question, state, tried = ask(tmp_path / "subject", commits), tmp_path / "state.json", list[str]()
    probe = make_probe(tmp_path / "subject", tried)

    def killed(commit: str) -> Probed:
        if len(tried) % 2:
            tried.append("killed")
            raise KeyboardInterrupt
        return probe(commit)

    for _ in range(20):
        try:
            done = run_session(open_session(question, state), state, killed, lambda _: None)
            break
        except KeyboardInterrupt:
            continue
    assert done.search.find_culprits() == (commits[23],)
    runs = [one for one in tried if one != "killed"]
    assert len(runs) == len(set(runs)) <= 7
    assert open_session(question, state) == done, "the file holds all of it"


def test_another_question_does_not_go_on_from_the_file(tmp_path: Path) -> None:
    question = Question("tiny", "commits", "a", "b", ("x", "y"))
    save_session(Session(question), tmp_path / "state.json")
    assert open_session(question, tmp_path / "state.json").question == question
    with pytest.raises(RequestError, match=r"is about another bisection .*: name another --state, or remove it"):
        open_session(replace(question, words=("--deep",)), tmp_path / "state.json")


def test_a_bad_end_that_passes_ends_the_search(tmp_path: Path) -> None:
    session = Session(Question("tiny", "commits", "a", "b", ("x", "b")))
    with pytest.raises(RequestError, match="--bad b: tiny passes there on this machine"):
        run_session(session, tmp_path / "state.json", lambda _: Probed("good"), lambda _: None)
    with pytest.raises(RequestError, match="cannot be tested: no compiler"):
        run_session(session, tmp_path / "state.json", lambda _: Probed("skip", said="no compiler"), lambda _: None)


def test_a_failure_of_other_tests_is_no_answer(tmp_path: Path) -> None:
    answers = {
        "d": Probed("bad", (FORWARD,), "wrong"),
        "b": Probed("bad", (CONVERSION,), "no such key"),
        "a": Probed("good"),
        "c": Probed("bad", (FORWARD,), "wrong"),
    }
    session = Session(Question("tiny", "commits", "0", "d", ("a", "b", "c", "d")))
    done = run_session(session, tmp_path / "state.json", answers.__getitem__, lambda _: None)
    assert done.runs["b"].answer == "skip"
    assert done.runs["b"].said == "fails in another way: no such key"
    assert done.search.find_culprits() == ("b", "c")
    assert "first bad: one of 2, not all could be tested:\nb\nc\n" in format_outcome(done, str)


def test_infrastructure_keeps_the_answers_so_far(tmp_path: Path) -> None:
    state, question = tmp_path / "state.json", Question("tiny", "commits", "0", "d", tuple("abcd"))

    def probe(candidate: str) -> Probed:
        if candidate != "d":
            raise InfrastructureError("the Hub is away")
        return Probed("bad", (FORWARD,))

    with pytest.raises(InfrastructureError):
        run_session(Session(question), state, probe, lambda _: None)
    assert set(open_session(question, state).runs) == {"d"}


def test_many_candidates_without_an_answer_end_the_search(tmp_path: Path) -> None:
    question = Question("tiny", "commits", "0", "199", tuple(map(str, range(200))))

    def probe(candidate: str) -> Probed:
        return Probed("bad", (FORWARD,)) if candidate == "199" else Probed("skip", said="cannot be built")

    with pytest.raises(InfrastructureError, match="30 candidates gave no answer"):
        run_session(Session(question), tmp_path / "state.json", probe, lambda _: None)
