"""What earlier nights found: one JSON line an entry and night, and what it says about today. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Literal

from ci.errors import RequestError
from ci.evidence import FINGERPRINT
from ci.records import read_json, to_json
from ci.report import words

if TYPE_CHECKING:
    from ci.report.outcome import EntryResult, Results

WINDOW = 60
"""Nights that are looked back on."""

Change = Literal["new", "known", "different", "fixed"]
"""Against the baseline: new · already failing on main · failing differently · fixed."""


@dataclass(frozen=True, slots=True)
class HistoryCase:
    """One test of one night. `used` is the largest share of a tolerance, 1.0 the limit; None where not measured."""

    name: str
    outcome: str
    failure_class: str | None = None
    fingerprint: str = ""
    used: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class HistoryRecord:
    """One entry of one night. `date` is UTC, ISO 8601; `sha` the subject's commit; `seconds` the time of its job.

    `reference` stands for Hugging Face's own answer to `inputs`, by `oracle`: its dtype and version.
    """

    date: str
    entry: str
    verdict: str
    sha: str
    cases: tuple[HistoryCase, ...]
    run_url: str = ""
    model_id: str = ""
    revision: str = ""
    layers: int = 0
    subject: str = ""
    device: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    schema: int = 1
    inputs: str = ""
    oracle: str = ""
    reference: float | None = None


@dataclass(frozen=True)
class Then:
    """What the baseline knows of one test: its last conclusive night, when it was last good, since when it is bad."""

    failing: bool
    fingerprint: str
    used: float | None
    sha: str
    date: str
    last_good: str = ""
    first_bad: str = ""
    streak: int = 0
    nights: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Baseline:
    """Every night on record, oldest first, by entry."""

    records: Mapping[str, tuple[HistoryRecord, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.records)

    def last(self, entry: str, test: str) -> HistoryCase | None:
        """The test on its last conclusive night; None where it never came to a conclusion (a neutral night is none)."""
        nights = self._conclusive.get((entry, test))
        return nights[-1][1] if nights else None

    def then(self, entry: str, test: str) -> Then | None:
        """All that is known of a test; None where it never came to a conclusion."""
        nights = self._conclusive.get((entry, test))
        if not nights:
            return None
        nights = nights[-WINDOW:]
        record, case = nights[-1]
        good = [i for i, (_, then) in enumerate(nights) if then.outcome == "passed"]
        bad = nights[good[-1] + 1 :] if good else nights
        return Then(
            failing=case.outcome == "failed",
            fingerprint=case.fingerprint,
            used=case.used,
            sha=record.sha,
            date=record.date,
            last_good=nights[good[-1]][0].sha if good else "",
            first_bad=bad[0][0].sha if bad else "",
            streak=len(bad),
            nights=len(nights),
            failures=len(nights) - len(good),
        )

    @cached_property
    def _conclusive(self) -> dict[tuple[str, str], list[tuple[HistoryRecord, HistoryCase]]]:
        found: dict[tuple[str, str], list[tuple[HistoryRecord, HistoryCase]]] = {}
        for entry, records in self.records.items():
            for record in records:
                for case in record.cases:
                    if case.outcome in ("passed", "failed"):
                        found.setdefault((entry, case.name), []).append((record, case))
        return found

    def latest(self, entry: str) -> HistoryRecord | None:
        """The newest record of an entry."""
        return next(iter(reversed(self.records.get(entry, ()))), None)

    def seconds(self, entry: str, nights: int = 7) -> float | None:
        """Median time of the entry's job over its last conclusive `nights`, in seconds; None without history."""
        known = [r.seconds for r in self.records.get(entry, ()) if r.seconds > 0 and r.verdict != "neutral"]
        return median(known[-nights:]) if known else None


def history_line(record: HistoryRecord) -> str:
    """One line of `history/*.jsonl`, with its newline."""
    return to_json(record) + "\n"


def read_history(texts: Iterable[str]) -> Baseline:
    """The baseline in the texts of `history/*.jsonl`. A line that is no record is named, and never hides the others."""
    records: dict[str, list[HistoryRecord]] = {}
    problems = []
    for text in texts:
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = read_json(HistoryRecord, line, what=f"history line {number}")
            except RequestError as error:
                problems.append(str(error)[:200])
                continue
            records.setdefault(record.entry, []).append(record)
    return Baseline({entry: _nights(found) for entry, found in records.items()}, tuple(problems))


def _nights(records: list[HistoryRecord]) -> tuple[HistoryRecord, ...]:
    """One record a night, oldest first: of a run's attempts the newest counts."""
    by_run = {
        record.run_url or f"night {number}": record
        for number, record in enumerate(sorted(records, key=lambda record: record.date))
    }
    return tuple(sorted(by_run.values(), key=lambda record: record.date))


def records_of(results: Results, date: str) -> list[HistoryRecord]:
    """What a run adds to the history: one record an entry, in the plan's order. `date` is UTC, ISO 8601."""
    request = results.plan.request
    return [_record(entry, date=date, sha=request.sha, url=request.run_url) for entry in results.entries]


def _record(entry: EntryResult, *, date: str, sha: str, url: str) -> HistoryRecord:
    known = words.identity(entry.cases)
    answered = words.reference(entry.cases)
    return HistoryRecord(
        date=date,
        entry=entry.name,
        verdict=entry.verdict,
        sha=sha,
        run_url=url,
        model_id=known.model_id if known else "",
        revision=known.revision if known else "",
        layers=known.layers if known else 0,
        subject=known.subject if known else "",
        device=known.device if known else "",
        libraries=dict(known.libraries) if known else {},
        seconds=entry.seconds,
        inputs=words.answered_inputs(answered) if answered else "",
        oracle=answered.coverage.get("oracle", "") if answered else "",
        reference=answered.figures[FINGERPRINT] if answered else None,
        cases=tuple(
            HistoryCase(c.name, c.history_outcome, c.failure_class, c.fingerprint, c.used, c.seconds)
            for c in entry.cases
        ),
    )
