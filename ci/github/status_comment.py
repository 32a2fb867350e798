"""The comments that the service keeps on a pull request, and the state that it stores in one of them.

Two comments, each found by its marker *and* its author, each edited in place: the status comment (the runs and their
result) and the reply (help, plans, refusals). They are apart so that a user who may not start a run cannot overwrite a
result. The status comment holds the started runs and the last result in a hidden, packed HTML comment. No output of a
test can end it, and only the bot and the repository's writers can change it.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ci.consumers.registry import ConsumerName
from ci.errors import RequestError
from ci.hub.layers import LayerRequest
from ci.hub.slices import Slice
from ci.records import read_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection

CommentKind = Literal["status", "reply"]
MARKERS: dict[CommentKind, str] = {"status": "<!-- hub-tests:board -->", "reply": "<!-- hub-tests:answer -->"}
"""The first line of each comment. Comments on GitHub have these texts: other texts would not match them."""

KEPT_RUNS = 20
MAX_STATE_CHARS = 12_000
"""The hidden part's share of the 65,536 characters of a comment."""
MAX_STATE_BYTES = 2**20

_STATE = re.compile(r"<!-- hub-tests:state ([A-Za-z0-9+/=]*) -->")


@dataclass(frozen=True)
class StartedRun:
    """A run that a comment on this pull request started."""

    run_id: int
    comment_id: int
    sha: str
    models: tuple[str, ...]
    layers: LayerRequest | None = None
    deep: bool = False
    slice: Slice | None = None
    consumer: ConsumerName | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two runs that test the same models in the same way at the same commit."""
        return (self.sha, tuple(sorted(self.models)), self.layers, self.slice, self.deep, self.consumer)


@dataclass(frozen=True)
class LastResult:
    """The last finished run: the entries that it tested, those that failed, and the part that was asked for.

    `unsettled` are entries that other runs did not pass at the same commit, and that this run did not test.
    """

    run_id: int
    sha: str
    models: tuple[str, ...]
    failed: tuple[str, ...]
    layers: LayerRequest | None = None
    unsettled: tuple[str, ...] = ()
    deep: bool = False
    slice: Slice | None = None
    consumer: ConsumerName | None = None


@dataclass(frozen=True)
class CommentState:
    """The state stored in the status comment of a pull request."""

    runs: tuple[StartedRun, ...] = ()
    last: LastResult | None = None
    schema: int = 1

    def add_run(self, run: StartedRun) -> CommentState:
        """Return a copy with `run` as the newest; only the newest `KEPT_RUNS` are kept."""
        others = [other for other in self.runs if other.run_id != run.run_id]
        return replace(self, runs=(*others, run)[-KEPT_RUNS:])

    def drop_run(self, run_id: int) -> CommentState:
        """Return a copy in which the run is no longer started."""
        return replace(self, runs=tuple(run for run in self.runs if run.run_id != run_id))

    def set_result(self, result: LastResult) -> CommentState:
        """Return a copy with `result` as the last one and its run no longer started."""
        return replace(self.drop_run(result.run_id), last=result)

    def is_about(self, sha: str) -> bool:
        """Return whether a run at the commit `sha` is started, or was the last one."""
        return any(run.sha == sha for run in self.runs) or (self.last is not None and self.last.sha == sha)

    def is_beyond(self, run_id: int) -> bool:
        """Return whether nothing is to be said any more about the run: it has ended, or a later one has begun.

        A run that is started again is under way. GitHub numbers runs in the order in which they are made.
        """
        ended = self.last is not None and self.last.run_id == run_id
        return self.is_after(run_id) or (ended and all(run.run_id != run_id for run in self.runs))

    def is_after(self, run_id: int) -> bool:
        """Return whether a later run was started or has ended."""
        return any(run.run_id > run_id for run in (*self.runs, *((self.last,) if self.last else ())))

    def find_unsettled(self, sha: str, tested: Collection[str]) -> tuple[str, ...]:
        """Return the entries that failed at the commit `sha` before and are not in `tested`."""
        if self.last is None or self.last.sha != sha:
            return ()
        return tuple(name for name in (*self.last.failed, *self.last.unsettled) if name not in tested)


def format_status_comment(text: str, state: CommentState) -> str:
    """Format the body of the status comment: marker, text for people, hidden state."""
    return f"{MARKERS['status']}\n{text.strip()}\n\n{_format_state(state)}\n"


def format_reply(text: str) -> str:
    """Format the body of the reply: marker and text."""
    return f"{MARKERS['reply']}\n{text.strip()}\n"


def read_text(body: str) -> str:
    """Read the text for people from the body of a status comment."""
    return _STATE.sub("", body.removeprefix(MARKERS["status"])).strip()


def read_state(body: str | None) -> CommentState:
    """Read the state from the body of a status comment.

    The state is empty if there is none, or if it is damaged.
    """
    packed = _STATE.findall(body or "")
    if not packed:
        return CommentState()
    try:
        plain = zlib.decompressobj().decompress(base64.b64decode(packed[-1], validate=True), MAX_STATE_BYTES)
        return read_json(CommentState, plain, what="state of the pull request's comment")
    except (RequestError, zlib.error, binascii.Error, ValueError):
        return CommentState()


def _format_state(state: CommentState) -> str:
    """Format the state as a hidden comment.

    If it is too large, started runs are dropped, the oldest first, then the last result.
    """
    packed = base64.b64encode(zlib.compress(to_json(state).encode(), 9)).decode()
    if len(packed) > MAX_STATE_CHARS and state.runs:
        return _format_state(replace(state, runs=state.runs[1:]))
    if len(packed) > MAX_STATE_CHARS and state.last:
        return _format_state(replace(state, last=None))
    return f"<!-- hub-tests:state {packed} -->"
