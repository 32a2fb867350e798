"""The verdict of an entry and of the run, with counts and notes. A run without results is never green."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.report.results import Totals
from ci.report.suite_exit import describe_exit, find_exit_note, is_interrupted
from ci.subjects.offer import NO_ATTENTION, NO_EXPERTS
from ci.suite.tests import SERVED_TEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci.report.results import Attempt, CaseResult, EntryResult, Job, Problem, Verdict


def find_entry_verdict(cases: Sequence[CaseResult]) -> Verdict:
    """Return "passed" only if every planned step has a test that passed."""
    if any(case.red for case in cases):
        return "failed"
    if any(case.outcome in ("failed", "missing") for case in cases):
        return "neutral"
    planned = {case.step for case in cases if case.planned}
    passed = {case.step for case in cases if case.planned and (case.outcome == "passed" or _lacks_part(case))}
    return "passed" if planned and planned == passed else "neutral"


def find_run_verdict(entries: Sequence[EntryResult]) -> Verdict:
    """Return "passed" only if every entry passed; one failed entry makes the run fail.

    An entry that was refused as known takes no part; where all were, nothing was proved.
    """
    verdicts = {entry.verdict for entry in entries if not entry.refused_as_known}
    if "failed" in verdicts:
        return "failed"
    return "passed" if verdicts == {"passed"} else "neutral"


def _lacks_part(case: CaseResult) -> bool:
    """Return whether the model itself has nothing to run: the suite read that in config.json, not from the subject."""
    return case.evidence is not None and case.evidence.unmet_need in (NO_ATTENTION, NO_EXPERTS)


def describe_entry_problem(
    missing_reason: Problem | None, cases: Sequence[CaseResult], job_failure: CaseResult | None
) -> str:
    """Describe what is wrong with an entry as a whole; "" if nothing is."""
    if missing_reason is not None:
        return missing_reason.message
    if job_failure is not None:
        return job_failure.headline
    missing = sum(case.outcome == "missing" for case in cases)
    planned = sum(case.planned for case in cases)
    if missing:
        return f"{planned - missing} of {planned} planned tests have a result"
    ran = {case.step for case in cases if case.outcome != "did_not_run" or _lacks_part(case)}
    not_run = sorted({case.step for case in cases if case.planned} - ran)
    why = next((f": {case.headline}" for case in cases if case.headline and case.step in not_run), "")
    return f"no test of {', '.join(not_run)} could run{why if not_run == [SERVED_TEST] else ''}" if not_run else ""


def list_entry_notes(cases: Sequence[CaseResult], job: Job | None, attempt: Attempt | None = None) -> tuple[str, ...]:
    """List what a reader should know about an entry although it does not change the verdict."""
    notes = list(_list_disagreements(cases, attempt)) if attempt else []
    if job is not None and job.conclusion == "success" and any(case.red for case in cases):
        notes.append("the job succeeded on GitHub, but its result file contains failures: the result file counts")
    if job is not None and job.note:
        notes.append(job.note)
    unplanned = [case.name for case in cases if not case.planned and case.outcome == "passed"]
    if unplanned:
        notes.append(f"{len(unplanned)} passed tests were not planned and do not count: {', '.join(unplanned[:3])}")
    return tuple(notes)


def _list_disagreements(cases: Sequence[CaseResult], attempt: Attempt) -> Iterator[str]:
    """List what the suite's exit code and the machine's description say otherwise than the tests."""
    if note := find_exit_note(attempt):
        yield note
    explained = attempt.ended or is_interrupted(attempt) or attempt.exit_code in (None, 0, 1)
    if attempt.exit_code and not explained and any(case.outcome == "missing" for case in cases):
        yield describe_exit(attempt.exit_code)
    devices = {case.evidence.device for case in cases if case.evidence}
    if any(device.startswith("cuda") for device in devices) and attempt.host.get("gpus"):
        yield f"the tests say that they ran on a GPU, but the machine lists none: {attempt.host['gpus']}"


def count_totals(entries: Sequence[EntryResult]) -> Totals:
    """Count verdicts and outcomes over all entries."""
    verdicts = [entry.verdict for entry in entries]
    cases = [case for entry in entries for case in entry.cases]
    outcomes = [case.outcome for case in cases]
    refused = sum(entry.refused_as_known for entry in entries)
    return Totals(
        models=len(entries),
        models_passed=verdicts.count("passed"),
        models_failed=verdicts.count("failed"),
        models_neutral=verdicts.count("neutral") - refused,
        models_refused=refused,
        tests=len(cases),
        passed=outcomes.count("passed"),
        failed=outcomes.count("failed"),
        did_not_run=outcomes.count("did_not_run"),
        consequence=outcomes.count("consequence"),
        missing=outcomes.count("missing"),
        refused=outcomes.count("refused"),
        flaky=sum(case.outcome == "passed" and bool(case.earlier) for case in cases),
        seconds=sum(entry.seconds for entry in entries),
    )
