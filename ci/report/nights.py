"""The history of nights as a person looks at it: verdicts, margins, what changed between, drift while green. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ci.report.escape import one_line
from ci.report.history import WINDOW
from ci.report.labels import CLASSES
from ci.units import format_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.history import Baseline, HistoryCase, HistoryRecord

DRIFT_FACTOR = 2.0
"""A margin that grew by this factor over the median of the nights before is a drift: night to night it is far less."""
DRIFT_FLOOR = 0.02
"""Below this share of the limit a growth is rounding."""
FOUND = ("failed", "refused")
"""Outcomes of a test that make a finding."""
MIN_NIGHTS = 3
"""Nights that a median needs."""


@dataclass(frozen=True)
class Night:
    """One night of a model. `used` is the largest share of a tolerance; `changes` are those since the night before."""

    date: str
    verdict: str
    sha: str
    used: float | None
    seconds: float
    queued: float
    run_url: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelNights:
    """A model's last nights, oldest first. `drift` says how its margin moved while it passed, "" if it did not."""

    name: str
    model_id: str
    nights: tuple[Night, ...]
    drift: str = ""

    @property
    def newest(self) -> Night:
        """The newest night."""
        return self.nights[-1]

    @property
    def seconds(self) -> float:
        """The median time of its job, in seconds; 0 where none is known."""
        return median([night.seconds for night in self.nights if night.seconds > 0] or [0.0])

    @property
    def queued(self) -> float:
        """The median time that its job waited for a runner, in seconds."""
        return median([night.queued for night in self.nights if night.seconds > 0] or [0.0])

    @property
    def changed(self) -> tuple[Night, ...]:
        """The nights before which something changed, newest first."""
        return tuple(night for night in reversed(self.nights) if night.changes)


@dataclass(frozen=True)
class Finding:
    """Failures by the same cause in the newest nights. `since` is the first night of the oldest one."""

    failure_class: str
    headline: str
    tests: tuple[str, ...]
    since: str
    nights: int
    run_url: str


def list_models(history: Baseline) -> tuple[ModelNights, ...]:
    """List the models by name, each with its last nights of the part that is tested now."""
    history = history.select_newest_subsets()
    return tuple(_make_model(name, records[-WINDOW:]) for name, records in sorted(history.records.items()) if records)


def list_findings(history: Baseline) -> tuple[Finding, ...]:
    """List the causes by which a model fails in its newest clear night, those of most tests first.

    A refusal that the registry knows is one too, although its night blames nobody.
    """
    found: dict[str, list[tuple[HistoryRecord, HistoryCase, int, str]]] = {}
    for records in history.select_newest_subsets().records.values():
        clear = [record for record in records[-WINDOW:] if record.verdict != "neutral" or _is_refused(record)]
        for case in clear[-1].cases if clear else ():
            if case.outcome in FOUND:
                nights, since = _count_nights(clear, case)
                key = case.fingerprint or f"{case.failure_class} {case.name}"
                found.setdefault(key, []).append((clear[-1], case, nights, since))
    findings = [_make_finding(cases) for cases in found.values()]
    return tuple(sorted(findings, key=lambda finding: (-len(finding.tests), finding.since)))


def _is_refused(record: HistoryRecord) -> bool:
    return any(case.outcome == "refused" for case in record.cases)


def _make_finding(cases: Sequence[tuple[HistoryRecord, HistoryCase, int, str]]) -> Finding:
    record, case, _, _ = cases[0]
    oldest = max(cases, key=lambda one: one[2])
    tests = tuple(one.name for _, one, _, _ in cases)
    return Finding(_name_class(case), case.headline, tests, oldest[3], oldest[2], record.run_url)


def _count_nights(records: Sequence[HistoryRecord], case: HistoryCase) -> tuple[int, str]:
    """Count the nights in a row, back from the newest, in which a test failed by one cause; return the first's date."""
    nights, since = 0, ""
    for record in reversed(records):
        same = (one for one in record.cases if one.name == case.name and one.outcome in FOUND)
        if not any(one.fingerprint == case.fingerprint for one in same):
            break
        nights, since = nights + 1, record.date[:10]
    return nights, since


def _name_class(case: HistoryCase) -> str:
    known: dict[str, str] = dict(CLASSES)
    return known.get(case.failure_class or "other", case.failure_class or "")


def _make_model(name: str, records: Sequence[HistoryRecord]) -> ModelNights:
    befores = [None, *records[:-1]]
    nights = tuple(_make_night(record, before) for record, before in zip(records, befores, strict=True))
    return ModelNights(name, records[-1].model_id, nights, find_drift(nights))


def _make_night(record: HistoryRecord, before: HistoryRecord | None) -> Night:
    measured = [case.used for case in record.cases if case.used is not None]
    return Night(
        date=record.date[:10],
        verdict=record.verdict,
        sha=record.sha,
        used=max(measured, default=None),
        seconds=record.seconds,
        queued=record.queued,
        run_url=record.run_url,
        changes=list_changes(before, record) if before else (),
    )


def list_changes(before: HistoryRecord, now: HistoryRecord) -> tuple[str, ...]:
    """List what changed between two nights: the subject's commit, the Hub revision, the device, the libraries."""
    pairs = {
        "commit": (before.sha[:12], now.sha[:12]),
        "Hub revision": (before.revision[:12], now.revision[:12]),
        "device": (before.device, now.device),
        "layers": (str(before.layers or ""), str(now.layers or "")),
    }
    names = sorted({*before.libraries, *now.libraries})
    pairs |= {name: (before.libraries.get(name, ""), now.libraries.get(name, "")) for name in names}
    changed = ((name, old, new) for name, (old, new) in pairs.items() if old != new and old and new)
    return tuple(one_line(f"{name} {old} → {new}", 120) for name, old, new in changed)


def find_drift(nights: Sequence[Night]) -> str:
    """Say how the margin of a model that passes moved: from which share to which, when, and what changed then."""
    green = [night for night in nights if night.verdict == "passed" and night.used is not None]
    if len(green) <= MIN_NIGHTS or nights[-1] is not green[-1]:
        return ""
    values = [night.used or 0.0 for night in green]
    steps = (at for at in range(MIN_NIGHTS, len(values)) if _is_step(values, at))
    at = next(steps, None)
    if at is None or values[-1] < DRIFT_FACTOR * median(values[:at]):
        return ""
    since = green[at]
    why = f", when {', '.join(since.changes)} changed" if since.changes else ", when nothing that is recorded changed"
    moved = f"error / limit moved from {format_share(median(values[:at]))} to {format_share(median(values[at:]))}"
    return f"{moved} on {since.date}{why}"


def _is_step(values: Sequence[float], at: int) -> bool:
    """Return whether the margins are far larger from one night on than before it."""
    least = max(DRIFT_FACTOR * median(values[:at]), DRIFT_FLOOR)
    return values[at] >= least and median(values[at:]) >= least
