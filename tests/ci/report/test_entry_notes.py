from __future__ import annotations

from dataclasses import replace

from ci.evidence import REPEATED, Evidence
from ci.report.entry_notes import list_notes
from ci.report.results import CaseResult, EntryResult


def test_a_repetition_without_the_compile_cache_is_noted_once() -> None:
    said = f"{REPEATED}then it passed, the compile cache was wrong"
    evidence = replace(Evidence("smollm2", "test_forward_equivalence"), notes=(said, "another note"))
    case = CaseResult("test_forward_equivalence[smollm2]", "test_forward_equivalence", "passed", evidence=evidence)
    entry = EntryResult("smollm2", "passed", (case, replace(case, name="again")))
    assert [note for note in list_notes(entry) if note in evidence.notes] == [said]
