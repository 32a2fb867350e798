"""The lines `hub-tests bisect …` to paste, made from two nights of the history. No I/O.

Each value that a test's job may have written is checked before it becomes a word of a command line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.github.event import SHA
from ci.report.history import HistoryRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


MAX_LIBRARIES = 4
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!]{0,40}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_REPOSITORY_URL = re.compile(r"https?://[\w.:-]{1,200}/[\w.-]{1,100}/[\w.-]{1,100}")


@dataclass(frozen=True)
class SubjectAddress:
    """The subject's name and the address of its repository."""

    name: str
    url: str


@dataclass(frozen=True)
class FailingNights:
    """The last night that an entry passed, and the first one after it in which it failed."""

    passed: HistoryRecord
    failed: HistoryRecord


def find_failing_nights(records: Sequence[HistoryRecord]) -> FailingNights | None:
    """Find the nights between which an entry broke; None where the newest clear one passed, or none ever did."""
    clear = [record for record in records if record.verdict in ("passed", "failed")]
    passed = [at for at, record in enumerate(clear) if record.verdict == "passed"]
    if not passed or passed[-1] == len(clear) - 1:
        return None
    return FailingNights(clear[passed[-1]], clear[passed[-1] + 1])


def format_lines(nights: FailingNights, subject: SubjectAddress) -> list[str]:
    """Format one line for each thing that changed between two nights: the commit, the revision, each library."""
    before, after = nights.passed, nights.failed
    changes: list[tuple[str, str, str]] = []
    if before.sha != after.sha and SHA.fullmatch(before.sha) and SHA.fullmatch(after.sha):
        changes.append(("commits", before.sha, after.sha))
    if before.revision != after.revision and SHA.fullmatch(before.revision) and SHA.fullmatch(after.revision):
        changes.append(("hub", before.revision, after.revision))
    changes += list(_list_library_changes(before, after))[:MAX_LIBRARIES]
    lines = (format_line(after.entry, *change, subject, device=after.device, commit=after.sha) for change in changes)
    return [line for line in lines if line]


def _list_library_changes(before: HistoryRecord, after: HistoryRecord) -> Iterable[tuple[str, str, str]]:
    for name, version in after.libraries.items():
        old = before.libraries.get(name, "").partition("+")[0]  # a local version is not on the index
        new = version.partition("+")[0]
        if old != new and _PACKAGE.fullmatch(name) and _VERSION.fullmatch(old) and _VERSION.fullmatch(new):
            yield name, old, new


def format_line(
    model: str, over: str, good: str, bad: str, subject: SubjectAddress, *, device: str = "", commit: str = ""
) -> str:
    """Format one line; "" where model or address cannot be words of a command line.

    Over anything but commits, the subject stays at `commit`.
    """
    if not _NAME.fullmatch(model) or not _NAME.fullmatch(subject.name) or not _REPOSITORY_URL.fullmatch(subject.url):
        return ""
    pin = f"@{commit}" if over != "commits" and SHA.fullmatch(commit) else ""
    words = ["hub-tests bisect", model, *([] if over == "commits" else [f"--over {over}"])]
    words += [f"--good {good}", f"--bad {bad}", f"--subject {subject.name}", f"--environment {subject.name}"]
    words += [f"--subject-source {subject.url}{pin}", *([f"--device {device}"] if device in ("cpu", "cuda") else [])]
    return " ".join(words)
