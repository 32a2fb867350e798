"""A bisection that survives its end: the question, and each answer as soon as it is there, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ci.bisect.search import Answer, Search, limit_runs
from ci.errors import InfrastructureError, RequestError
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

MAX_SKIPS = 30
"""So many candidates without an answer are no answer."""


@dataclass(frozen=True)
class Question:
    """What is searched for: the model, what changes from one candidate to the next, and all that stays.

    `over` is "commits", "hub" or the name of a package; `words` are the options of each run.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    model: str
    over: str
    good: str
    bad: str
    candidates: tuple[str, ...]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probed:
    """What one run said: its answer, the tests that failed, and a sentence."""

    __pydantic_config__: ClassVar[Any] = STRICT

    answer: Answer
    failed: tuple[str, ...] = ()
    said: str = ""


@dataclass(frozen=True)
class Session:
    """A question with the runs so far, as it is kept in the file."""

    __pydantic_config__: ClassVar[Any] = STRICT

    question: Question
    runs: Mapping[str, Probed] = field(default_factory=dict)
    schema: int = 1

    @property
    def search(self) -> Search:
        """The search with its answers."""
        answers = {candidate: probed.answer for candidate, probed in self.runs.items()}
        return Search(self.question.candidates, answers)

    def record(self, candidate: str, probed: Probed) -> Session:
        """Return the session with one more run; a failure of other tests than the bad end's gives no answer."""
        wanted = self.runs.get(self.question.candidates[-1])
        if probed.answer == "bad" and wanted and not set(probed.failed) & set(wanted.failed):
            probed = replace(probed, answer="skip", said=f"fails in another way: {probed.said}")
        return replace(self, runs={**self.runs, candidate: probed})


Probe = Callable[[str], Probed]
"""Runs one candidate. Raises InfrastructureError where that says nothing about it; then it is tried again later."""


def open_session(question: Question, path: Path) -> Session:
    """Return the session in the file, or a new one. Raises RequestError where the file is about another question."""
    if not path.is_file():
        return Session(question)
    session = read_json(Session, path.read_bytes(), what=str(path))
    if session.question != question:
        raise RequestError(
            f"{path}: is about another bisection ({session.question.model} over {session.question.over}, "
            f"{session.question.good} to {session.question.bad}): name another --state, or remove it"
        )
    return session


def save_session(session: Session, path: Path) -> None:
    """Write the file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(to_json(session, indent=2), encoding="utf-8")
    part.replace(path)


def run_session(session: Session, path: Path, probe: Probe, say: Callable[[str], None]) -> Session:
    """Run candidates until the first bad one is found, and keep each answer.

    Raises RequestError where the bad end does not fail here, InfrastructureError where too many give no answer.
    """
    last = session.question.candidates[-1]
    _check_bad_end(session)
    while (candidate := session.search.choose_next()) is not None:
        number, left = session.search.count_runs() + 1, session.search.count_left()
        say(f"run {number} ({left} left at most): {candidate[:40]}{' (the bad end)' if candidate == last else ''}")
        session = session.record(candidate, probe(candidate))
        save_session(session, path)
        probed = session.runs[candidate]
        say(f"  {probed.answer}{f': {probed.said}' if probed.said else ''}")
        _check_bad_end(session)
        if sum(one.answer == "skip" for one in session.runs.values()) > MAX_SKIPS:
            raise InfrastructureError(f"{MAX_SKIPS} candidates gave no answer: see the reports beside {path}")
    return session


def _check_bad_end(session: Session) -> None:
    end = session.runs.get(session.question.candidates[-1])
    if end and end.answer == "good":
        raise RequestError(f"--bad {session.question.bad}: {session.question.model} passes there on this machine")
    if end and end.answer == "skip":
        raise RequestError(f"--bad {session.question.bad}: cannot be tested: {end.said}")


def format_outcome(session: Session, describe: Callable[[str], str]) -> str:
    """Format the answer: the first bad candidate, or those among which it is."""
    culprits = session.search.find_culprits()
    runs = len(session.runs)
    skipped = sum(one.answer == "skip" for one in session.runs.values())
    counted = f"{runs} runs of at most {limit_runs(len(session.question.candidates)) + skipped}"
    failed = ", ".join(session.runs[session.question.candidates[-1]].failed[:4])
    if len(culprits) == 1:
        head = f"first bad: {describe(culprits[0])}"
    else:
        head = "\n".join([f"first bad: one of {len(culprits)}, not all could be tested:", *map(describe, culprits)])
    return f"{head}\nfails: {failed}\n{len(session.question.candidates)} candidates, {counted}"
