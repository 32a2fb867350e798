"""Write the small files that `hub-tests run` leaves beside `junit.xml`; `ci.report.result_files` reads them."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci.report.result_files import ENDED, EXIT_CODE, FORMAT, FORMAT_KEY, HOST, INTERRUPTED

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def write_host(report: Path, identity: Mapping[str, str]) -> None:
    """Write the machine's description; it also says that an exit code must follow."""
    (report / HOST).write_text(json.dumps({**identity, FORMAT_KEY: FORMAT}, indent=2), encoding="utf-8")


def write_ended(report: Path, reason: str) -> None:
    """Write why the suite was stopped early, in one line."""
    (report / ENDED).write_text(f"{reason}\n", encoding="utf-8")


@contextmanager
def record_suite_end(report: Path, suite: subprocess.Popen[bytes]) -> Iterator[None]:
    """Record how the suite ends: its exit code, and an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        write_ended(report, INTERRUPTED)
        raise
    finally:
        if (code := suite.poll()) is not None:
            (report / EXIT_CODE).write_text(f"{code}\n", encoding="utf-8")
