"""Why a test is not green: the failure class, from what the test recorded, else from how it ended. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ci.evidence import INFRASTRUCTURE

if TYPE_CHECKING:
    from ci.evidence import Evidence, FailureClass
    from ci.report.junit import Case

_ANY = re.IGNORECASE
_BY_TEXT: tuple[tuple[FailureClass, re.Pattern[str]], ...] = (
    (
        "crash",
        re.compile(r"worker '?\w+'? crashed|segmentation fault|fatal python error|core dumped|died with <?sig", _ANY),
    ),
    ("out_of_memory", re.compile(r"out ?of ?memory|cannot allocate memory|\bMemoryError\b|\bOOM\b", _ANY)),
    ("gated", re.compile(r"GatedRepo|gated repo|awaiting a review from the repo authors", _ANY)),
    (
        "hub_unavailable",
        re.compile(r"(?=.*(hub|hugging ?face|\bhf\b))(?=.*(\b(429|50[0234])\b|connection|unreachable|resolve))", _ANY),
    ),
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


def classify(case: Case, evidence: Evidence | None) -> FailureClass:
    """The class of a case that is not green. The test's own word counts first; its text is a guess after that."""
    if case.message == "collection failure":
        return "collection"
    if crashed(case):
        return "crash"
    if evidence is not None and evidence.failure_class is not None:
        return evidence.failure_class
    if evidence is not None and evidence.worst is not None and not evidence.worst.passed:
        return "numeric_mismatch"
    heading = headline(case)
    return next((kind for kind, pattern in _BY_TEXT if pattern.search(heading)), "other")


def crashed(case: Case) -> bool:
    """Whether pytest-xdist reports that the worker running this very case died."""
    return bool(re.search(r"worker '\w+' crashed while running", case.message))


def headline(case: Case) -> str:
    """What the failure says, in one line: pytest's wrapping around the message taken off."""
    message = case.message.strip() or last_line(case.detail)
    if message == "collection failure":
        message = last_line(case.detail)
    wrapped = re.fullmatch(r'failed on (setup|teardown) with "(.*)"', message, re.DOTALL)
    if wrapped:
        message = f"{wrapped[2]} (on {wrapped[1]})"
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return re.sub(r"^(?:Failed|AssertionError|_pytest\.outcomes\.Failed): ", "", first)


def last_line(detail: str) -> str:
    """The last line of a traceback that states the error (pytest marks those with `E`)."""
    lines = [line for line in detail.splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (marked or [line.strip() for line in lines] or [""])[-1]


def is_infrastructure(failure_class: str | None) -> bool:
    """Whether the class makes a verdict neutral: nothing that a pull request did."""
    return failure_class in INFRASTRUCTURE
