"""The records of the replay: a fixed bug, how it is put back, where it should be found, and what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.mutation.tiny_models import TinyModel

Check = Literal["convert", "float32", "model", "round_trip", "config_sensitivity", "gradients", "layer_order"]
"""What runs on both states, as in the suite: "float32" and "model" are forward passes in float32 and its own dtype.

Every pair converts; a conversion that raises is the finding, and no later check runs.
"""


class CannotRunError(Exception):
    """A bug could not be put back, or nothing here reaches it; `str()` is the reason in one line."""


@dataclass(frozen=True)
class Reversal:
    """The fix's own change of some files, undone on today's code."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Substitution:
    """One edit of a file: a regular expression that must match `count` times, and what stands there instead."""

    file: str
    pattern: str
    replacement: str
    count: int = 1


@dataclass(frozen=True)
class NotRun:
    """Why a bug is not put back: nothing that runs here reaches its code."""

    reason: str


Recreation = Reversal | tuple[Substitution, ...] | NotRun


@dataclass(frozen=True)
class Place:
    """Where the judge should find a bug; an empty field asks for nothing.

    `operations` are the verdict's plain words, `words` a regular expression for its diagnosis.
    """

    operations: tuple[str, ...] = ()
    component: str = ""
    words: str = ""

    def __str__(self) -> str:
        component = f" [{self.component}]" if self.component else ""
        parts = " or ".join(self.operations) + component
        return f"{parts or 'message'}{f': /{self.words}/' if self.words else ''}"


@dataclass(frozen=True)
class Pair:
    """A fix commit: what it fixed in our own words, how the bug comes back, on which model, and what should be red."""

    name: str
    commit: str
    fixed: str
    recreation: Recreation
    model: TinyModel | None = None
    checks: tuple[Check, ...] = ("float32",)
    place: Place = field(default_factory=Place)
    variant: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """The first check of one state that was not green, or the last one: what the judge said about it."""

    check: Check
    passed: bool
    failure_class: str = ""
    operation: str = ""
    layer: int | None = None
    component: str = ""
    diagnosis: str = ""

    def is_at(self, place: Place) -> bool:
        """Return whether this is a red finding that names the place."""
        from re import search

        operations = not place.operations or self.operation in place.operations
        component = not place.component or self.component == place.component
        return not self.passed and operations and component and bool(search(place.words, self.diagnosis))


@dataclass(frozen=True)
class PairResult:
    """What was seen for one pair: the findings of both states, or why it did not run."""

    pair: Pair
    before: Finding | None = None
    after: Finding | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def ran(self) -> bool:
        """Whether both states were judged."""
        return self.before is not None and self.after is not None

    @property
    def red_before(self) -> bool:
        """Whether the judge refuses the state before the fix."""
        return self.before is not None and not self.before.passed

    @property
    def green_after(self) -> bool:
        """Whether the judge passes the state after the fix."""
        return self.after is not None and self.after.passed

    @property
    def located(self) -> bool:
        """Whether the red verdict names the expected place."""
        return self.before is not None and self.before.is_at(self.pair.place)
