"""Compare a run with earlier nights: new failures, failures already on main, changes outside of the subject."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.evidence import FINGERPRINT
from ci.report.history import Baseline, read_reference_inputs
from ci.report.results import find_most_complete_evidence, find_reference_evidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.results import CaseResult, Change, EntryResult

FINGERPRINT_TOLERANCE = 1e-9
"""Far above the rounding of a cosine in float64, far below any real change of the output."""


def compare_with_baseline(case: CaseResult, entry: str, baseline: Baseline) -> CaseResult:
    """Add what the history knows to a red case. Other cases stay as they are."""
    if not baseline or not case.red:
        return case
    history = baseline.history_of(entry, case.name)
    if history is None:
        return replace(case, change="new")
    known: Change = "known" if history.fingerprint == case.fingerprint else "different"
    return replace(
        case,
        change=known if history.failing else "new",
        nights=history.nights,
        bad_nights=history.failures,
        used_before=history.used,
        last_good=history.last_good,
        first_bad=history.first_bad,
        streak=history.streak,
    )


def find_drift(entry: str, cases: Sequence[CaseResult], baseline: Baseline) -> dict[str, str]:
    """Find what changed outside of the subject since the newest night.

    That is the Hub's revision, the device, and the versions of libraries: each as "before → now".
    """
    before = baseline.latest_record(entry)
    now = find_most_complete_evidence(cases)
    if before is None or now is None:
        return {}
    pairs = {"revision": (before.revision[:12], now.revision[:12]), "device": (before.device, now.device)}
    pairs |= {name: (before.libraries.get(name, ""), version) for name, version in now.libraries.items()}
    return {name: f"{old} → {new}" for name, (old, new) in pairs.items() if old and new and old != new}


def find_reference_changes(entries: Sequence[EntryResult], baseline: Baseline | None) -> list[str]:
    """Find entries for which Hugging Face's own output changed: one sentence for each kind of change."""
    changed: dict[str, list[str]] = {}
    for entry in entries:
        if sentence := _describe_reference_change(entry.name, entry.cases, baseline or Baseline()):
            changed.setdefault(sentence, []).append(entry.name)
    return [f"{sentence}: {', '.join(names)}" for sentence, names in changed.items()]


def _describe_reference_change(entry: str, cases: Sequence[CaseResult], baseline: Baseline) -> str:
    """Describe a change of Hugging Face's output; "" if there is none.

    Only outputs for the same checkpoint and the same inputs are compared. A test that fails since then may fail
    because of Hugging Face, and the subject may be right.
    """
    now = find_reference_evidence(cases)
    nights = [record for record in baseline.records.get(entry, ()) if record.reference is not None]
    if now is None or not nights:
        return ""
    before = nights[-1]
    same = (before.model_id, before.revision, before.layers) == (now.model_id, now.revision, now.layers)
    if not same or before.inputs != read_reference_inputs(now) or before.reference is None:
        return ""
    if abs(before.reference - now.figures[FINGERPRINT]) <= FINGERPRINT_TOLERANCE:
        return ""
    references = f"{before.oracle} on {before.date[:10]}, {now.coverage.get('oracle', '')} now"
    return f"Hugging Face's own output changed for the same checkpoint and inputs ({references})"


def find_newest_commit(baseline: Baseline | None) -> str:
    """Return the subject's commit of the newest night; "" without a history."""
    if not baseline:
        return ""
    return max((nights[-1] for nights in baseline.records.values()), key=lambda record: record.date).sha
