"""The result of a run as frozen records: verdicts, tests, causes. Every report is made from these records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ci.evidence import FINGERPRINT, Evidence, FailureClass, Measure
from ci.phases import PhaseTime
from ci.plan import Plan
from ci.records import NON_FINITE
from ci.report.junit import JunitFile

Verdict = Literal["passed", "failed", "neutral"]
"""`neutral`: an infrastructure problem prevented a result. It is not green, and it blames nobody."""

Outcome = Literal["passed", "failed", "did_not_run", "consequence", "missing", "refused"]
"""`consequence`: skipped because an earlier test of the same model failed. `missing`: planned, but without a result.
`refused`: the subject refused the model as the registry says, in exactly these words.
"""

RefusalState = Literal["", "as_known", "no_longer", "differently"]
"""What became of a refusal that the registry knows; "" where it knows none, or the conversion was not reached."""

Change = Literal["new", "known", "different", "fixed"]
"""Compared with the baseline: new; already failing on main; failing on main in another way; fixed."""

EXIT_CODES: Mapping[Verdict, int] = {"passed": 0, "failed": 1, "neutral": 3}


@dataclass(frozen=True)
class Job:
    """The GitHub job of an entry. GitHub's answer wins over the result file.

    `attempt` counts from 1, `seconds` is the run time, `queued` the time it waited for a runner. `broke_early` names
    the step in which the job failed before it ran any code of the subject.
    """

    conclusion: str | None
    status: str = "completed"
    url: str = ""
    attempt: int = 1
    seconds: float = 0.0
    runner: str = ""
    note: str = ""
    broke_early: str = ""
    queued: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """The result file of one attempt.

    `running` are the ids of tests that had begun and not ended, `host` describes the machine. `ended` says why the
    suite was stopped early, for example "time limit of 8400 s"; "" if it was not. `exit_code` is the suite's own, a
    negative one names the signal that killed it; None if it was not recorded. `records_exit_code` says whether the
    folder is of a kind that must have one. `is_part`: the file held several models and this is one model's part of it;
    `problem` is then how the exit code contradicts the whole file.
    """

    number: int
    junit: JunitFile
    running: tuple[str, ...] = ()
    ended: str = ""
    host: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    records_exit_code: bool = False
    is_part: bool = False
    problem: Problem | None = None


ResultFiles = JunitFile | Attempt | Mapping[str, Sequence[Attempt]]
"""One file with the tests of every entry (a laptop), or the attempts of each entry (a matrix of jobs)."""


@dataclass(frozen=True)
class Problem:
    """The known reason why an entry never reached its tests: the fetch failed, no runner took the job, …"""

    failure_class: FailureClass
    message: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test of one entry. Its text is cleaned and clipped, but must still be escaped wherever it is shown.

    `used` is the largest share of a tolerance that the test used (1.0 is the limit), `used_before` the baseline's
    share. `streak` counts the nights since it began to fail on main. `bad_nights` counts the nights among the last
    `nights` in which it failed at all: a "new" failure with some bad nights may be an old flaky test. `earlier` says
    how older attempts of this run failed: a pass with earlier failures is flaky. `phases` add up to `seconds`,
    and are empty where the test recorded none.
    """

    __pydantic_config__: ClassVar[Any] = NON_FINITE

    name: str
    step: str
    outcome: Outcome
    failure_class: FailureClass | None = None
    infrastructure: bool = False
    headline: str = ""
    detail: str = ""
    seconds: float = 0.0
    planned: bool = True
    evidence: Evidence | None = None
    fingerprint: str = ""
    used: float | None = None
    used_before: float | None = None
    change: Change | None = None
    last_good: str = ""
    first_bad: str = ""
    streak: int = 0
    nights: int = 0
    bad_nights: int = 0
    earlier: tuple[str, ...] = ()
    phases: tuple[PhaseTime, ...] = ()

    @property
    def red(self) -> bool:
        """Whether the test counts against the subject."""
        return self.outcome in ("failed", "missing") and not self.infrastructure

    @property
    def history_outcome(self) -> str:
        """The outcome for the history: missing counts as failed, an infrastructure problem as inconclusive."""
        if self.outcome in ("failed", "missing"):
            return "inconclusive" if self.infrastructure else "failed"
        return self.outcome


@dataclass(frozen=True)
class EntryResult:
    """One model. `label` names in a few words a problem that is not a single test's, for example "no result file".

    `phases` are the sums over its tests. `refusal` says what became of a known one; "as_known" is neutral, blames
    nobody, and takes no part in the verdict of run and commit.
    """

    name: str
    verdict: Verdict
    cases: tuple[CaseResult, ...]
    label: str = ""
    notes: tuple[str, ...] = ()
    job: Job | None = None
    attempt: int = 1
    seconds: float = 0.0
    host: Mapping[str, str] = field(default_factory=dict)
    drift: Mapping[str, str] = field(default_factory=dict)
    phases: tuple[PhaseTime, ...] = ()
    refusal: RefusalState = ""

    @property
    def refused_as_known(self) -> bool:
        """Whether the subject refused the model as the registry says."""
        return self.refusal == "as_known"


@dataclass(frozen=True)
class Cause:
    """Failures with the same fingerprint. `cases` are (entry, test) pairs, `title` is the sentence of the first one."""

    fingerprint: str
    failure_class: FailureClass
    title: str
    cases: tuple[tuple[str, str], ...]
    infrastructure: bool = False
    planned: bool = True
    change: Change | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The entries that have this failure, in order."""
        return tuple(dict.fromkeys(entry for entry, _ in self.cases))


@dataclass(frozen=True)
class Totals:
    """Counts over all entries; `models_neutral` without those refused as known.

    `seconds` adds up the times of the jobs, or of the tests where there is no job.
    """

    models: int = 0
    models_passed: int = 0
    models_failed: int = 0
    models_neutral: int = 0
    tests: int = 0
    passed: int = 0
    failed: int = 0
    did_not_run: int = 0
    consequence: int = 0
    missing: int = 0
    flaky: int = 0
    seconds: float = 0.0
    models_refused: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Results:
    """The result of a run. `baseline` is the subject's commit in the newest night of the history; "" without one.

    `outside` are the seconds of `hub-tests run` that no test contains: the fetch, and the suite's start and end.
    """

    plan: Plan
    verdict: Verdict
    entries: tuple[EntryResult, ...]
    causes: tuple[Cause, ...]
    totals: Totals
    baseline: str = ""
    notes: tuple[str, ...] = ()
    schema: int = 1
    outside: tuple[PhaseTime, ...] = ()

    def entry(self, name: str) -> EntryResult | None:
        """Return the entry called `name`."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def case(self, entry: str, test: str) -> CaseResult | None:
        """Return one test of one entry."""
        model = self.entry(entry)
        return next((case for case in model.cases if case.name == test), None) if model else None

    def cases_of(self, cause: Cause) -> list[CaseResult]:
        """Return the tests that failed by `cause`, in order."""
        members, models = set(cause.cases), set(cause.models)
        return [
            case
            for entry in self.entries
            if entry.name in models
            for case in entry.cases
            if (entry.name, case.name) in members and case.fingerprint == cause.fingerprint
        ]


def exit_code(results: Results, *, accept_known_refusals: bool = False) -> int:
    """Return the exit code of the command line: 0 passed, 1 failed, 3 neutral (infrastructure).

    Where known refusals are accepted, a run of nothing else ends with 0: its job did what is expected of it.
    """
    expected = bool(results.entries) and all(entry.refused_as_known for entry in results.entries)
    return 0 if expected and accept_known_refusals else EXIT_CODES[results.verdict]


def find_most_complete_evidence(cases: Sequence[CaseResult]) -> Evidence | None:
    """Return the evidence with library versions and revision, if a test recorded one; else any."""
    recorded = [case.evidence for case in cases if case.evidence]
    return max(recorded, key=lambda evidence: (bool(evidence.libraries), bool(evidence.revision)), default=None)


def find_reference_evidence(cases: Sequence[CaseResult]) -> Evidence | None:
    """Return the first evidence that holds the fingerprint of Hugging Face's output."""
    return next((case.evidence for case in cases if case.evidence and FINGERPRINT in case.evidence.figures), None)


def find_closest_case(cases: Sequence[CaseResult]) -> CaseResult | None:
    """Return the test that used most of its tolerance; None if nothing was measured."""
    measured = [case for case in cases if case.used is not None]
    return max(measured, key=lambda case: case.used or 0.0, default=None)


def find_worst_measure(evidence: Evidence | None) -> Measure | None:
    """Return the measure with the largest error / limit; None if nothing was measured.

    Every view of a test names this measure and this figure.
    """
    if evidence is None:
        return None
    measures = [measure for measure in (evidence.worst, *evidence.measures) if measure is not None]
    return max(measures, key=lambda measure: (measure.used > 1 or not measure.passed, measure.used), default=None)


def group_by_causes(results: Results) -> list[tuple[EntryResult, ...]]:
    """Group the models that did not pass by their causes."""
    groups: dict[tuple[Verdict, frozenset[str]], list[EntryResult]] = {}
    for entry in results.entries:
        causes = frozenset(case.fingerprint for case in entry.cases if case.outcome in ("failed", "missing"))
        if entry.verdict != "passed":
            own = causes or frozenset([entry.name])
            groups.setdefault((entry.verdict, own), []).append(entry)
    return [tuple(entries) for entries in groups.values()]
