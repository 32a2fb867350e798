"""The comments that the service keeps on a pull request, and what it remembers in them.

Two comments, each found by its marker *and* its author, each edited in place: the *board* (runs and their result) and
the *answer* (help, plans, refusals), so that somebody who may not start a run cannot overwrite a result. The board
remembers the runs started and the last result in a hidden comment, packed: nothing a test prints can end it, and
nobody but the bot and the repository's writers can change it.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection

Kind = Literal["board", "answer"]
KEPT_RUNS = 20
STATE_CHARS = 12_000
"""What the hidden part may take of a comment's 65,536 characters."""
MAX_STATE_BYTES = 2**20

_STATE = re.compile(r"<!-- hub-tests:state ([A-Za-z0-9+/=]*) -->")


@dataclass(frozen=True)
class StartedRun:
    """A run that a comment on this pull request started. `key` tells runs of the same selection and commit."""

    run_id: int
    comment_id: int
    sha: str
    models: tuple[str, ...]
    layers: int | Literal["auto"] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two requests that would test the same."""
        return (self.sha, tuple(sorted(self.models)), self.layers)


@dataclass(frozen=True)
class LastResult:
    """The last finished run: what it tested, and the entries that failed in it. `layers` is what it was asked for.

    `unsettled` are entries that had not passed at the same commit before, and were not tested again in this run.
    """

    run_id: int
    sha: str
    models: tuple[str, ...]
    failed: tuple[str, ...]
    layers: int | Literal["auto"] | None = None
    unsettled: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What the board remembers of its pull request."""

    runs: tuple[StartedRun, ...] = ()
    last: LastResult | None = None
    schema: int = 1

    def started(self, run: StartedRun) -> State:
        """With `run` as the newest; the oldest beyond the last few are forgotten."""
        others = [known for known in self.runs if known.run_id != run.run_id]
        return replace(self, runs=(*others, run)[-KEPT_RUNS:])

    def unsettled(self, sha: str, tested: Collection[str]) -> tuple[str, ...]:
        """What did not pass at the commit `sha` before, and is not among what was `tested` now."""
        if self.last is None or self.last.sha != sha:
            return ()
        return tuple(name for name in (*self.last.failed, *self.last.unsettled) if name not in tested)

    def finished(self, result: LastResult) -> State:
        """With `result` as the last one, and its run no longer among the started ones."""
        return replace(self, runs=tuple(run for run in self.runs if run.run_id != result.run_id), last=result)


def marker(kind: Kind) -> str:
    """The first line of the comment, by which it is found again."""
    return f"<!-- hub-tests:{kind} -->"


def write_board(text: str, state: State) -> str:
    """The board's body: marker, what people read, what the service remembers."""
    return f"{marker('board')}\n{text.strip()}\n\n{_hidden(state)}\n"


def write_answer(text: str) -> str:
    """The answer's body."""
    return f"{marker('answer')}\n{text.strip()}\n"


def read_state(body: str | None) -> State:
    """What a board remembers; nothing where there is none, or where it was edited into nonsense."""
    found = _STATE.findall(body or "")
    if not found:
        return State()
    try:
        plain = zlib.decompressobj().decompress(base64.b64decode(found[-1], validate=True), MAX_STATE_BYTES)
        return read_json(State, plain, what="state of the pull request's comment")
    except (RequestError, zlib.error, binascii.Error, ValueError):
        return State()


def _hidden(state: State) -> str:
    """The state as a hidden comment; where it grows too large, started runs are forgotten, oldest first."""
    packed = base64.b64encode(zlib.compress(to_json(state).encode(), 9)).decode()
    if len(packed) > STATE_CHARS and state.runs:
        return _hidden(replace(state, runs=state.runs[1:]))
    if len(packed) > STATE_CHARS and state.last:
        return _hidden(replace(state, last=None))
    return f"<!-- hub-tests:state {packed} -->"
