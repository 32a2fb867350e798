"""Why a test failed: its failure class, its headline, and the failures with one cause grouped across models."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ci.evidence import INFRASTRUCTURE
from ci.report.results import Cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.evidence import Evidence, FailureClass
    from ci.report.junit import JunitCase
    from ci.report.results import CaseResult, EntryResult

_ANY = re.IGNORECASE
_CLASS_BY_TEXT: tuple[tuple[FailureClass, re.Pattern[str]], ...] = (
    (
        "crash",
        re.compile(r"worker '?\w+'? crashed|segmentation fault|fatal python error|core dumped|died with <?sig", _ANY),
    ),
    ("out_of_memory", re.compile(r"out ?of ?memory|cannot allocate memory|\bMemoryError\b|\bOOM\b", _ANY)),
    ("gated", re.compile(r"GatedRepo|gated repo|awaiting a review from the repo authors", _ANY)),
    ("hub_unavailable", re.compile(r"\bhub answered \d{3}\b|HfHubHTTPError", _ANY)),
    ("timeout", re.compile(r"\btime(d)? ?out\b|Timeout(Error|Expired)|time limit", _ANY)),
    (
        "environment",
        re.compile(
            r"no space left on device|no cuda-capable device|cuda driver version|nvidia-smi has failed|\bXid\b"
            r"|cuda error: (ecc|uncorrectable)|fell off the bus|read-only file system|all cuda-capable devices",
            _ANY,
        ),
    ),
    ("non_finite", re.compile(r"\b(nan|non-finite|infinit)", _ANY)),
    ("shape_mismatch", re.compile(r"shape mismatch|size mismatch|shapes? .* (cannot|mismatch|differ)", _ANY)),
    ("missing_tensor", re.compile(r"missing (key|tensor|weight)|KeyError", _ANY)),
    ("unexpected_tensor", re.compile(r"unexpected (key|tensor|weight)", _ANY)),
    ("unsupported", re.compile(r"\bUnsupportedError\b|NotImplementedError", _ANY)),
)
_OF_THE_DOWNLOAD = frozenset({"gated", "hub_unavailable"})
"""A message shows these only in the test that downloads: elsewhere the subject may have written it."""

DOWNLOAD_TEST = "test_download_and_truncate"

_NOISE = (
    (re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{12,}\b"), "#"),
    (re.compile(r"(?:[\w.+-]*/)+([\w.+-]+)"), r"\1"),
    (re.compile(r"[-+]?\b\d[\d_,]*(?:\.\d+)?(?:e[-+]?\d+)?\b", re.IGNORECASE), "#"),
    (re.compile(r"#(?:[\s,x]+#)+"), "#"),
)


def classify_failure(case: JunitCase, evidence: Evidence | None) -> FailureClass:
    """Return the failure class of a case that did not pass.

    The class that the test recorded counts first. Without one, the class is guessed from the message.
    """
    if case.message == "collection failure":
        return "collection"
    if is_worker_crash(case):
        return "crash"
    if evidence is not None and evidence.failure_class is not None:
        return evidence.failure_class
    if evidence is not None and evidence.worst is not None and not evidence.worst.passed:
        return "numeric_mismatch"
    message = extract_headline(case)
    guesses = (name for name, pattern in _CLASS_BY_TEXT if pattern.search(message))
    downloads = case.name.startswith(DOWNLOAD_TEST)
    return next((name for name in guesses if downloads or name not in _OF_THE_DOWNLOAD), "other")


def is_worker_crash(case: JunitCase) -> bool:
    """Return whether pytest-xdist reports that the worker died while it ran this case."""
    return bool(re.search(r"worker '\w+' crashed while running", case.message))


def is_infrastructure(failure_class: str | None) -> bool:
    """Return whether the class makes a verdict neutral, because no pull request can cause it."""
    return failure_class in INFRASTRUCTURE


def extract_headline(case: JunitCase) -> str:
    """Return the failure's message in one line, without what pytest adds around it."""
    message = case.message.strip() or extract_error_line(case.detail)
    if message == "collection failure":
        message = extract_error_line(case.detail)
    wrapped = re.fullmatch(r'failed on (setup|teardown) with "(.*)"', message, re.DOTALL)
    if wrapped:
        message = f"{wrapped[2]} (on {wrapped[1]})"
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return re.sub(r"^(?:Failed|AssertionError|_pytest\.outcomes\.Failed): ", "", first)


def extract_error_line(detail: str) -> str:
    """Return the last line of a traceback that states the error (pytest marks these with `E`)."""
    lines = [line for line in detail.splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (marked or [line.strip() for line in lines] or [""])[-1]


def fingerprint_failure(failure_class: str, sentence: str, *, names: tuple[str, ...] = ()) -> str:
    """Return a stable key of a failure: its class, and its sentence without variable parts.

    Numbers, paths, addresses and model names are removed. The key is the same in all runs and for all models, so it
    groups failures ("3 models, 1 cause") and tells a failure already on main from a different one.
    """
    plain = sentence
    for name in sorted(filter(None, names), key=len, reverse=True):
        plain = plain.replace(name, "<model>")
    for pattern, replacement in _NOISE:
        plain = pattern.sub(replacement, plain)
    plain = " ".join(plain.lower().split())[:400]
    return f"{failure_class}-{hashlib.sha256(plain.encode('utf-8', 'replace')).hexdigest()[:12]}"


def group_causes(entries: Sequence[EntryResult]) -> tuple[Cause, ...]:
    """Group failures by fingerprint: new ones first, then those already on main, then infrastructure."""
    groups: dict[str, list[tuple[EntryResult, CaseResult]]] = {}
    for entry in entries:
        for case in entry.cases:
            if case.outcome in ("failed", "missing"):
                groups.setdefault(case.fingerprint, []).append((entry, case))
    return tuple(sorted((_make_cause(key, members) for key, members in groups.items()), key=_sort_key))


def _sort_key(cause: Cause) -> tuple[int, ...]:
    """Put the cause that says most about this change first."""
    vague = (cause.infrastructure, cause.change == "known", cause.failure_class == "missing_result", not cause.planned)
    return (*vague, -len(cause.models), -len(cause.cases))


def _make_cause(fingerprint: str, members: list[tuple[EntryResult, CaseResult]]) -> Cause:
    changes = {case.change for _, case in members}
    first = members[0][1]
    return Cause(
        fingerprint=fingerprint,
        failure_class=first.failure_class or "other",
        title=first.headline,
        cases=tuple((entry.name, case.name) for entry, case in members),
        infrastructure=first.infrastructure,
        planned=any(case.planned for _, case in members),
        change=next((change for change in ("new", "different", "known") if change in changes), None),
    )
