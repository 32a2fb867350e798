"""The folder that a run writes its report to: it belongs to one run at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.errors import RequestError
from ci.report.report_files import REPORT_HTML, REPORT_JSON, REPORT_MD
from ci.report.result_files import ENDED, EXIT_CODE, HOST, JUNIT, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = ".lock"
OLD_FILES = (JUNIT, RUNNING, ENDED, EXIT_CODE, HOST, REPORT_MD, REPORT_JSON, REPORT_HTML)


@contextmanager
def own_report_folder(report: Path) -> Iterator[None]:
    """Create the folder, lock it, and remove an earlier run's files; the lock ends with the block or the process.

    Raises RequestError where the folder cannot be written, or where another run writes it.
    """
    try:
        (report / "logs").mkdir(parents=True, exist_ok=True)
        lock = (report / LOCK).open("a+", encoding="ascii")
    except OSError as error:
        raise RequestError(f"--report {report}: cannot be written: {error.strerror}") from None
    with lock:
        _acquire(lock.fileno(), report)
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())
        try:
            for old in OLD_FILES:
                (report / old).unlink(missing_ok=True)  # an old report must not stand in for a run that died
        except OSError as error:
            raise RequestError(f"--report {report}: cannot be written: {error.strerror}") from None
        yield


def _acquire(lock: int, report: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode("ascii", "replace") or "unknown"
        raise RequestError(
            f"--report {report}: another run is writing there (process {owner}); wait for it, or name another folder"
        ) from None
