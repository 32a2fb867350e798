"""A check that failed with code of earlier runs is repeated without it: a stale compile cache makes no red verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ci.evidence import INFRASTRUCTURE, REPEATED
from ci.subjects.base import UsesCompileCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.equivalence.verdict import Verdict

NOT_BY_CODE = {*INFRASTRUCTURE, "variant_did_not_run"}
"""No compiled code fails a check in these ways."""


def has_compile_cache(subject: object) -> bool:
    """Tell whether a subject runs code that earlier runs compiled."""
    return isinstance(subject, UsesCompileCache) and subject.uses_compile_cache()


def repeat_without_cache(subject: object, check: Callable[[], Verdict]) -> Verdict:
    """Run a check, once more without compiled code of earlier runs where it fails with it."""
    verdict = check()
    if verdict.passed or verdict.failure_class in NOT_BY_CODE:
        return verdict
    if not isinstance(subject, UsesCompileCache) or not subject.drop_compile_cache():
        return verdict
    verdict = check()
    if verdict.passed:
        subject.blame_compile_cache()
    outcome = "then it passed, the compile cache was wrong" if verdict.passed else "it failed again"
    return replace(verdict, notes=(*verdict.notes, f"{REPEATED}{outcome}"))
