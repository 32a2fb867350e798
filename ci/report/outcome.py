"""What a run found, as one frozen record: verdicts, cases, causes. Everything written is rendered from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ci.evidence import Evidence, FailureClass
from ci.plan import Plan
from ci.records import NON_FINITE
from ci.report.history import Change
from ci.report.junit import Junit

Verdict = Literal["passed", "failed", "neutral"]
"""Neutral: infrastructure kept the question from being answered. It is not green, and it blames nobody."""

Outcome = Literal["passed", "failed", "did_not_run", "consequence", "missing"]
"""`consequence`: skipped because an earlier test of the same model failed. `missing`: planned, never came back."""

EXIT_CODES: Mapping[Verdict, int] = {"passed": 0, "failed": 1, "neutral": 3}


@dataclass(frozen=True)
class Job:
    """What GitHub says of an entry's job: the truth about it. `attempt` counts from 1, `seconds` is its run time.

    `broke_early` names the step in which it broke before anything of the subject was run.
    """

    conclusion: str | None
    status: str = "completed"
    url: str = ""
    attempt: int = 1
    seconds: float = 0.0
    runner: str = ""
    note: str = ""
    broke_early: str = ""


@dataclass(frozen=True)
class Attempt:
    """One attempt's result file. `running` are the ids of tests begun and not ended, `host` the machine's identity.

    `ended` says why the suite was ended before its end, as "time limit of 8400 s"; "" where it was not.
    """

    number: int
    junit: Junit
    running: tuple[str, ...] = ()
    ended: str = ""
    host: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Why an entry never reached its tests, where that is known: the fetch failed, no runner took the job, …"""

    failure_class: FailureClass
    message: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One test of one entry. Text is cleaned and clipped, and still hostile to whatever renders it.

    `used` is the largest share of a tolerance that it used, 1.0 the limit, and `used_before` the baseline's. `streak`
    counts the nights that it has been failing on main, `bad_nights` those of the last `nights` in which it failed at
    all: a "new" failure with some of them may be an old flake. `earlier` says how older attempts of this run failed:
    a pass with it is flaky.
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

    @property
    def red(self) -> bool:
        """Whether it counts against the subject."""
        return self.outcome in ("failed", "missing") and not self.infrastructure

    @property
    def history_outcome(self) -> str:
        """What the history keeps: a missing test is a failed one, and infrastructure brings no conclusion."""
        if self.outcome in ("failed", "missing"):
            return "inconclusive" if self.infrastructure else "failed"
        return self.outcome


@dataclass(frozen=True)
class EntryResult:
    """One model. `label` says in a few words what is wrong beyond single tests, as "no result file"."""

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


@dataclass(frozen=True)
class Cause:
    """Failures that say the same, over `cases` of (entry, test); `title` is the sentence of the first of them."""

    fingerprint: str
    failure_class: FailureClass
    title: str
    cases: tuple[tuple[str, str], ...]
    infrastructure: bool = False
    planned: bool = True
    change: Change | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The entries that it concerns, in order."""
        return tuple(dict.fromkeys(entry for entry, _ in self.cases))


@dataclass(frozen=True)
class Totals:
    """Counts over all entries; `seconds` is the sum of the jobs' or else the tests' times."""

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


@dataclass(frozen=True)
class Results:
    """A run's answer. `baseline` is the commit of the newest night that it was held against, "" without one."""

    plan: Plan
    verdict: Verdict
    entries: tuple[EntryResult, ...]
    causes: tuple[Cause, ...]
    totals: Totals
    baseline: str = ""
    notes: tuple[str, ...] = ()
    schema: int = 1

    def entry(self, name: str) -> EntryResult | None:
        """The entry called `name`."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def case(self, entry: str, test: str) -> CaseResult | None:
        """One test of one entry."""
        found = self.entry(entry)
        return next((case for case in found.cases if case.name == test), None) if found else None


def exit_code(results: Results) -> int:
    """0 passed · 1 failed · 3 neutral (infrastructure): the contract of the command line."""
    return EXIT_CODES[results.verdict]
