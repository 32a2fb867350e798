"""A run against the nights before it: what is new, what main has already, what moved outside of the subject. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.report import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.history import Baseline, Change
    from ci.report.outcome import CaseResult


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


def newest_commit(baseline: Baseline | None) -> str:
    """The commit of the newest night on record, "" without one."""
    if not baseline:
        return ""
    return max((nights[-1] for nights in baseline.records.values()), key=lambda record: record.date).sha
