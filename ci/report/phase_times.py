"""The seconds of tests and models by phase, for every report. What a test recorded about itself is not believed.

The seconds of a test's phases add up to its wall time, as JUnit has it: `other` is what no phase took, and a test
whose phases claim more than that has them cut, in the order of the phases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ci.phases import PHASES, Phase, PhaseTime, bound_seconds
from ci.report.identities import shorten_test_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ci.evidence import Evidence
    from ci.report.results import EntryResult

MAX_PHASES = 64
"""Phases of one test, and of one model: what is beyond counts as `other`."""
SHOWN_SECONDS = 0.05
"""A phase below this, which would read 0.0 s, has no row of its own."""


def complete_phases(evidence: Evidence | None, wall: float) -> tuple[PhaseTime, ...]:
    """Return the phases that a test recorded, cut to its `wall` seconds, with `other` for the rest.

    Empty for a test that recorded none.
    """
    if evidence is None or not evidence.phases:
        return ()
    left, phases = bound_seconds(wall, wall), []
    for one in sum_phases([evidence.phases[:MAX_PHASES]]):
        seconds = bound_seconds(one.seconds, left)
        left -= seconds
        phases.append(PhaseTime(one.phase, one.detail, seconds, bound_seconds(one.beside, wall)))
    return sum_phases([phases, [PhaseTime("other", seconds=left)]])


def sum_phases(groups: Iterable[Sequence[PhaseTime]]) -> tuple[PhaseTime, ...]:
    """Add up the seconds of the same phase and detail, in the order of the phases."""
    sums: dict[tuple[Phase, str], tuple[float, float]] = {}
    for one in (one for group in groups for one in group):
        key = (one.phase, one.detail) if len(sums) < MAX_PHASES else (one.phase, "")
        seconds, beside = sums.get(key, (0.0, 0.0))
        sums[key] = (seconds + one.seconds, beside + one.beside)
    times = [PhaseTime(phase, detail, *both) for (phase, detail), both in sums.items()]
    return tuple(sorted(times, key=lambda one: (PHASES.index(one.phase), one.detail)))


@dataclass(frozen=True)
class PhaseTable:
    """The seconds of a model by phase: one row a test, and their sums.

    `rows` are (test, seconds by column, seconds in all). `details` are the sums by phase and detail, `outside` the
    seconds of the model's job that no test contains, `beside` those of work that ran beside other phases.
    """

    columns: tuple[Phase, ...]
    rows: tuple[tuple[str, tuple[float, ...], float], ...]
    sums: tuple[float, ...]
    seconds: float
    details: tuple[PhaseTime, ...]
    outside: float
    beside: float


def make_phase_table(entry: EntryResult) -> PhaseTable | None:
    """Make the table of a model; None where no test recorded phases."""
    if not entry.phases:
        return None
    columns = tuple(phase for phase in PHASES if _count(entry.phases, phase) >= SHOWN_SECONDS)
    timed = [case for case in entry.cases if case.phases]
    seconds = sum(case.seconds for case in timed)
    return PhaseTable(
        columns=columns,
        rows=tuple(
            (shorten_test_id(case.name, entry.name), tuple(_count(case.phases, p) for p in columns), case.seconds)
            for case in timed
        ),
        sums=tuple(_count(entry.phases, phase) for phase in columns),
        seconds=seconds,
        details=tuple(one for one in entry.phases if max(one.seconds, one.beside) >= SHOWN_SECONDS),
        outside=max(0.0, entry.seconds - sum(case.seconds for case in entry.cases)),
        beside=sum(one.beside for one in entry.phases),
    )


def join_variants(phases: Sequence[PhaseTime]) -> tuple[PhaseTime, ...]:
    """Add up what differs only in the subject's variant: `subject float32 moe=looped` counts for `subject float32`."""
    return sum_phases(
        [[replace(one, detail=" ".join(word for word in one.detail.split() if "=" not in word)) for one in phases]]
    )


def find_longest_test(entry: EntryResult, phase: PhaseTime) -> str:
    """Return the test in which a phase, over all variants, took longest; "" where none has it."""
    spent = {
        shorten_test_id(case.name, entry.name): one.seconds
        for case in entry.cases
        for one in join_variants(case.phases)
        if (one.phase, one.detail) == (phase.phase, phase.detail)
    }
    return max(spent, key=lambda test: spent[test], default="")


def describe_phase(one: PhaseTime) -> str:
    """Return a phase with its detail: `load, Hugging Face float64`."""
    return f"{one.phase}, {one.detail}" if one.detail else one.phase


def describe_rest(table: PhaseTable) -> str:
    """Say what the sums do not contain; "" where they contain everything."""
    parts = [f"{format_seconds(table.outside)} s of the job are outside of the tests"] if table.outside >= 1 else []
    if table.beside >= SHOWN_SECONDS:
        parts.append(f"{format_seconds(table.beside)} s of work ran beside other phases and are in no sum")
    return "; ".join(parts)


def format_seconds(seconds: float) -> str:
    """Format seconds for a table of times: `12.3`; "" for what would read 0.0."""
    return f"{seconds:.1f}" if seconds >= SHOWN_SECONDS else ""


def _count(phases: Sequence[PhaseTime], phase: Phase) -> float:
    """Return the seconds of one phase over all its details."""
    return sum(one.seconds for one in phases if one.phase == phase)
