"""The results of earlier nights: one JSON line for each entry and night."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.evidence import FINGERPRINT
from ci.records import read_json, to_json
from ci.report.escape import clip
from ci.report.results import find_most_complete_evidence, find_reference_evidence

if TYPE_CHECKING:
    from ci.evidence import Evidence
    from ci.report.results import EntryResult, Results

HEADLINE = 200
"""Characters of a failing test's sentence that the history keeps."""
WINDOW = 60
"""How many nights of a test are looked at."""


@dataclass(frozen=True, slots=True)
class HistoryCase:
    """One test of one night. `used` is the largest used share of a tolerance (1.0: the limit), None if not measured.

    `margins` are the same by dtype, as far as the test recorded its measures; None stands for a share without an end.
    `headline` is the sentence of a test that did not pass.
    """

    name: str
    outcome: str
    failure_class: str | None = None
    fingerprint: str = ""
    used: float | None = None
    seconds: float = 0.0
    margins: Mapping[str, float | None] = field(default_factory=dict)
    headline: str = ""


@dataclass(frozen=True)
class HistoryRecord:
    """One entry of one night. `date` is UTC, ISO 8601; `sha` the subject's commit; `seconds` the time of its job.

    `subset` is the `HubModel.subset` that was tested. The job waited `queued` seconds for a runner.
    `reference` is the fingerprint of Hugging Face's own output for `inputs`; `oracle` is its dtype and version.
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
    subset: str = ""
    queued: float = 0.0


@dataclass(frozen=True)
class CaseHistory:
    """One test in the last nights with a clear outcome: the newest one, the last pass, the first failure after it.

    `streak` counts the nights since that pass, `failures` the failures among all `nights`.
    """

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
    """All recorded nights by entry, oldest first. `problems` names lines that could not be read."""

    records: Mapping[str, tuple[HistoryRecord, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.records)

    def select_subsets(self, subsets: Mapping[str, str]) -> Baseline:
        """Return the nights that tested the same subset of each entry: another one is another model."""
        same = {
            entry: tuple(record for record in records if record.subset == subsets.get(entry, record.subset))
            for entry, records in self.records.items()
        }
        return Baseline({entry: records for entry, records in same.items() if records}, self.problems)

    def select_newest_subsets(self) -> Baseline:
        """Return the nights that tested the same subset of each entry as its newest night."""
        return self.select_subsets({entry: records[-1].subset for entry, records in self.records.items() if records})

    def last_case(self, entry: str, test: str) -> HistoryCase | None:
        """Return the test in the last night in which it passed or failed; None without one."""
        nights = self._conclusive.get((entry, test))
        return nights[-1][1] if nights else None

    def history_of(self, entry: str, test: str) -> CaseHistory | None:
        """Return the history of a test; None if it never passed or failed."""
        nights = self._conclusive.get((entry, test))
        if not nights:
            return None
        nights = nights[-WINDOW:]
        record, case = nights[-1]
        good = [i for i, (_, night) in enumerate(nights) if night.outcome == "passed"]
        bad = nights[good[-1] + 1 :] if good else nights
        return CaseHistory(
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
        nights: dict[tuple[str, str], list[tuple[HistoryRecord, HistoryCase]]] = {}
        for entry, records in self.records.items():
            for record in records:
                for case in record.cases:
                    if case.outcome in ("passed", "failed"):
                        nights.setdefault((entry, case.name), []).append((record, case))
        return nights

    def latest_record(self, entry: str) -> HistoryRecord | None:
        """Return the newest record of an entry."""
        return next(iter(reversed(self.records.get(entry, ()))), None)

    def median_seconds(self, entry: str, nights: int = 7) -> float | None:
        """Return the median time of the entry's job over its last `nights`, in seconds.

        Neutral nights do not count. None without history.
        """
        known = [r.seconds for r in self.records.get(entry, ()) if r.seconds > 0 and r.verdict != "neutral"]
        return median(known[-nights:]) if known else None


def history_line(record: HistoryRecord) -> str:
    """Return the record as one line of `history/*.jsonl`, with its newline."""
    return to_json(record) + "\n"


def read_history(texts: Iterable[str]) -> Baseline:
    """Read the baseline from the texts of `history/*.jsonl`.

    A line that is not a record becomes one of `Baseline.problems`; the other lines are still read.
    """
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
    return Baseline({entry: _keep_one_per_run(known) for entry, known in records.items()}, tuple(problems))


def _keep_one_per_run(records: list[HistoryRecord]) -> tuple[HistoryRecord, ...]:
    """Keep the newest attempt of each run, and sort by date."""
    by_run = {
        record.run_url or f"night {number}": record
        for number, record in enumerate(sorted(records, key=lambda record: record.date))
    }
    return tuple(sorted(by_run.values(), key=lambda record: record.date))


def make_history_records(results: Results, date: str) -> list[HistoryRecord]:
    """Make one record for each entry of a run. `date` is UTC, ISO 8601."""
    request = results.plan.request
    subsets = {planned.name: planned.model.subset for planned in results.plan.entries}
    return [
        _make_record(entry, date=date, sha=request.sha, url=request.run_url, subset=subsets.get(entry.name, ""))
        for entry in results.entries
    ]


def _make_record(entry: EntryResult, *, date: str, sha: str, url: str, subset: str) -> HistoryRecord:
    tested = find_most_complete_evidence(entry.cases)
    reference = find_reference_evidence(entry.cases)
    return HistoryRecord(
        date=date,
        entry=entry.name,
        verdict=entry.verdict,
        sha=sha or (tested.subject_commit or "" if tested else ""),
        run_url=url,
        model_id=tested.model_id if tested else "",
        revision=tested.revision if tested else "",
        layers=tested.layers if tested else 0,
        subject=tested.subject if tested else "",
        device=tested.device if tested else "",
        libraries=dict(tested.libraries) if tested else {},
        seconds=entry.seconds,
        queued=entry.job.queued if entry.job else 0.0,
        inputs=read_reference_inputs(reference) if reference else "",
        oracle=reference.coverage.get("oracle", "") if reference else "",
        reference=reference.figures[FINGERPRINT] if reference else None,
        subset=subset,
        cases=tuple(
            HistoryCase(
                *(c.name, c.history_outcome, c.failure_class, c.fingerprint, c.used, c.seconds),
                margins=find_margins(c.evidence),
                headline=clip(c.headline, HEADLINE) if c.outcome in ("failed", "missing", "refused") else "",
            )
            for c in entry.cases
        ),
    )


def find_margins(evidence: Evidence | None) -> dict[str, float | None]:
    """Return the largest used share of a tolerance by dtype, None for one without an end."""
    margins: dict[str, float] = {}
    for measure in evidence.measures if evidence else ():
        margins[measure.dtype] = max(margins.get(measure.dtype, 0.0), measure.used)
    return {dtype: used if math.isfinite(used) else None for dtype, used in margins.items()}


def read_reference_inputs(evidence: Evidence) -> str:
    """Return the inputs of the reference fingerprint: only the first case.

    Later cases can be shorter when a machine has less free memory; the first one is always the same.
    """
    return evidence.coverage.get("inputs", "").split("; ")[0]
