"""A run against the nights before it: what is new, what main has already, what moved outside of the subject. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.evidence import FINGERPRINT
from ci.report import words
from ci.report.history import Baseline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.history import Change
    from ci.report.outcome import CaseResult, EntryResult


def against(case: CaseResult, entry: str, baseline: Baseline) -> CaseResult:
    """A red case with what the history says of it."""
    if not baseline or not case.red:
        return case
    then = baseline.then(entry, case.name)
    if then is None:
        return replace(case, change="new")
    known: Change = "known" if then.fingerprint == case.fingerprint else "different"
    return replace(
        case,
        change=known if then.failing else "new",
        nights=then.nights,
        bad_nights=then.failures,
        used_before=then.used,
        last_good=then.last_good,
        first_bad=then.first_bad,
        streak=then.streak,
    )


def drift(entry: str, cases: Sequence[CaseResult], baseline: Baseline) -> dict[str, str]:
    """What moved since the newest night, outside of the subject: the Hub's revision, library versions, the device."""
    before = baseline.latest(entry)
    now = words.identity(cases)
    if before is None or now is None:
        return {}
    pairs = {"revision": (before.revision[:12], now.revision[:12]), "device": (before.device, now.device)}
    pairs |= {name: (before.libraries.get(name, ""), version) for name, version in now.libraries.items()}
    return {name: f"{then} → {today}" for name, (then, today) in pairs.items() if then and today and then != today}


MOVED = 1e-9
"""Far above what float64 leaves to chance in a cosine, far below any change of meaning."""


def reference_moves(entries: Sequence[EntryResult], baseline: Baseline | None) -> list[str]:
    """Where Hugging Face answers otherwise than on the last night: a sentence for each way, with the entries."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if said := _moved(entry.name, entry.cases, baseline or Baseline()):
            found.setdefault(said, []).append(entry.name)
    return [f"{said}: {', '.join(names)}" for said, names in found.items()]


def _moved(entry: str, cases: Sequence[CaseResult], baseline: Baseline) -> str:
    """A test that is red since then may be red because of Hugging Face: neither half of the subject need be wrong."""
    now = words.reference(cases)
    nights = [record for record in baseline.records.get(entry, ()) if record.reference is not None]
    if now is None or not nights:
        return ""
    before, here = nights[-1], now.figures[FINGERPRINT]
    same = (before.model_id, before.revision, before.layers) == (now.model_id, now.revision, now.layers)
    if not same or before.inputs != words.answered_inputs(now) or before.reference is None:
        return ""
    if abs(before.reference - here) <= MOVED:
        return ""
    oracles = f"{before.oracle} on {before.date[:10]}, {now.coverage.get('oracle', '')} now"
    return f"Hugging Face itself moved: it answers the same inputs otherwise ({oracles})"


def newest_commit(baseline: Baseline | None) -> str:
    """The commit of the newest night on record, "" without one."""
    if not baseline:
        return ""
    return max((nights[-1] for nights in baseline.records.values()), key=lambda record: record.date).sha
