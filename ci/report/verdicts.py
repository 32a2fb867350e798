"""Cases → an entry's verdict, label and notes; entries → the run's verdict and counts. Never green on nothing. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.outcome import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.outcome import CaseResult, EntryResult, Job, Problem, Verdict


def verdict_of(cases: Sequence[CaseResult]) -> Verdict:
    """Passed only where every planned step was answered by a test that passed."""
    if any(case.red for case in cases):
        return "failed"
    if any(case.outcome in ("failed", "missing") for case in cases):
        return "neutral"
    steps = {case.step for case in cases if case.planned}
    answered = {case.step for case in cases if case.planned and case.outcome == "passed"}
    return "passed" if steps and steps == answered else "neutral"


def overall_verdict(entries: Sequence[EntryResult]) -> Verdict:
    """The run's: passed only where every entry is."""
    verdicts = {entry.verdict for entry in entries}
    if "failed" in verdicts:
        return "failed"
    return "passed" if verdicts == {"passed"} else "neutral"


def label_of(lack: Problem | None, cases: Sequence[CaseResult], ending: CaseResult | None) -> str:
    """What is wrong with an entry beyond single tests, "" where nothing is."""
    if lack is not None:
        return lack.message
    if ending is not None:
        return ending.headline
    missing = sum(case.outcome == "missing" for case in cases)
    planned = sum(case.planned for case in cases)
    if missing:
        return f"{planned - missing} of {planned} planned tests came back"
    silent = sorted({c.step for c in cases if c.planned} - {c.step for c in cases if c.outcome != "did_not_run"})
    return f"nothing ran for {', '.join(silent)}" if silent else ""


def notes_of(cases: Sequence[CaseResult], job: Job | None) -> tuple[str, ...]:
    """What a reader should know of an entry though it decides nothing."""
    notes = []
    if job is not None and job.conclusion == "success" and any(case.red for case in cases):
        notes.append("the job says success, its result file says failed: the file counts")
    if job is not None and job.note:
        notes.append(job.note)
    mute = [c.name for c in cases if c.planned and c.outcome == "passed" and c.evidence is None]
    if mute:
        notes.append(f"{len(mute)} passed tests left no evidence: {', '.join(mute[:3])}")
    extra = [case.name for case in cases if not case.planned and case.outcome == "passed"]
    if extra:
        notes.append(f"{len(extra)} passed tests were not planned and do not count: {', '.join(extra[:3])}")
    return tuple(notes)


def totals_of(entries: Sequence[EntryResult]) -> Totals:
    """Counts over all entries."""
    verdicts = [entry.verdict for entry in entries]
    cases = [case for entry in entries for case in entry.cases]
    outcomes = [case.outcome for case in cases]
    return Totals(
        models=len(entries),
        models_passed=verdicts.count("passed"),
        models_failed=verdicts.count("failed"),
        models_neutral=verdicts.count("neutral"),
        tests=len(cases),
        passed=outcomes.count("passed"),
        failed=outcomes.count("failed"),
        did_not_run=outcomes.count("did_not_run"),
        consequence=outcomes.count("consequence"),
        missing=outcomes.count("missing"),
        flaky=sum(case.outcome == "passed" and bool(case.earlier) for case in cases),
        seconds=sum(entry.seconds for entry in entries),
    )
