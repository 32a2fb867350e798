"""The notes of one entry: its warnings, its coverage gaps, its download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.evidence import NOT_COVERED, REPEATED

if TYPE_CHECKING:
    from ci.report.results import EntryResult

DOWNLOAD_STEP = "test_download_and_truncate"
NOTES = 8
"""How many notes of a download, and how many coverage gaps and warnings of an entry, are shown."""


def list_notes(entry: EntryResult) -> tuple[str, ...]:
    """List all notes of an entry: about its results, its warnings, its coverage gaps, its download."""
    downloads = [case.evidence for case in entry.cases if case.step == DOWNLOAD_STEP and case.evidence]
    notes = (note for evidence in downloads for note in evidence.notes[:NOTES])
    tested = (note for case in entry.cases if case.evidence for note in case.evidence.notes)
    repeated = dict.fromkeys(note for note in tested if note.startswith(REPEATED))
    return (*entry.notes, *list_warnings(entry), *list_coverage_gaps(entry), *notes, *list(repeated)[:NOTES])


def list_warnings(entry: EntryResult) -> tuple[str, ...]:
    """List an entry's findings that are not red, and how many are not shown."""
    warnings = tuple(dict.fromkeys(w for case in entry.cases if case.evidence for w in case.evidence.warnings))
    more = (f"and {len(warnings) - NOTES} more warnings",) if len(warnings) > NOTES else ()
    return (*warnings[:NOTES], *more)


def list_coverage_gaps(entry: EntryResult) -> tuple[str, ...]:
    """List what an entry's inputs did not reach: `sliding window not covered: capped at 128 tokens`."""
    coverages = [case.evidence.coverage for case in entry.cases if case.evidence]
    gaps = {
        f"{key} {why}": None for coverage in coverages for key, why in coverage.items() if why.startswith(NOT_COVERED)
    }
    return tuple(gaps)[:NOTES]
