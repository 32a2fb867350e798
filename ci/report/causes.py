"""Failures with the same cause, across tests and models, shown once. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ci.report.outcome import Cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.report.outcome import CaseResult, EntryResult

_NOISE = (
    (re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{12,}\b"), "#"),
    (re.compile(r"(?:[\w.+-]*/)+([\w.+-]+)"), r"\1"),
    (re.compile(r"[-+]?\b\d[\d_,]*(?:\.\d+)?(?:e[-+]?\d+)?\b", re.IGNORECASE), "#"),
    (re.compile(r"#(?:[\s,x]+#)+"), "#"),
)


def fingerprint(failure_class: str, sentence: str, *, names: tuple[str, ...] = ()) -> str:
    """A stable key of a failure: its class and what it says, without numbers, paths, addresses and model names.

    The same between runs and between models, so it groups ("3 models, 1 cause") and it tells a failure that is
    already on main from a different one.
    """
    plain = sentence
    for name in sorted(filter(None, names), key=len, reverse=True):
        plain = plain.replace(name, "<model>")
    for pattern, blank in _NOISE:
        plain = pattern.sub(blank, plain)
    plain = " ".join(plain.lower().split())[:400]
    return f"{failure_class}-{hashlib.sha256(plain.encode('utf-8', 'replace')).hexdigest()[:12]}"


def group_causes(entries: Sequence[EntryResult]) -> tuple[Cause, ...]:
    """Failures by fingerprint: the pull request's own before those already on main, then infrastructure."""
    groups: dict[str, list[tuple[EntryResult, CaseResult]]] = {}
    for entry in entries:
        for case in entry.cases:
            if case.outcome in ("failed", "missing"):
                groups.setdefault(case.fingerprint, []).append((entry, case))
    causes = [_cause(key, members) for key, members in groups.items()]
    return tuple(sorted(causes, key=_weight))


def _weight(cause: Cause) -> tuple[int, ...]:
    """Sort key: what says most about this change comes first."""
    vague = (cause.infrastructure, cause.change == "known", cause.failure_class == "missing_result", not cause.planned)
    return (*vague, -len(cause.models), -len(cause.cases))


def _cause(key: str, members: list[tuple[EntryResult, CaseResult]]) -> Cause:
    changes = {case.change for _, case in members}
    first = members[0][1]
    return Cause(
        fingerprint=key,
        failure_class=first.failure_class or "other",
        title=first.headline,
        cases=tuple((entry.name, case.name) for entry, case in members),
        infrastructure=first.infrastructure,
        planned=any(case.planned for _, case in members),
        change=next((change for change in ("new", "different", "known") if change in changes), None),
    )
