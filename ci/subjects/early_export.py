"""Exports a converted checkpoint in a thread and a process of their own, while the judge compares forward passes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ci.subjects.worker_subject import WorkerSubject

if TYPE_CHECKING:
    from pathlib import Path

    from ci.subjects.base import ConvertResult, ExportRequest, Subject

POLL_SECONDS = 0.2


class EarlyExport:
    """One export that begins before its test. Its process is none of those that the other calls use."""

    def __init__(self, subject: WorkerSubject, request: ExportRequest) -> None:
        """Start nothing yet."""
        self._worker = subject.make_converter()
        self._request = request
        self._clock = subject.clock
        self._result: ConvertResult | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="export", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self) -> ConvertResult:
        """Wait for the export and return its result. Raises what the export raised."""
        if self._thread.is_alive():
            with self._clock.wait():
                self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None  # noqa: S101 (narrowing only)
        return self._result

    def stop(self) -> None:
        """End the export, wherever it is."""
        while self._thread.is_alive():
            self._worker.interrupt()
            self._thread.join(POLL_SECONDS)

    def _run(self) -> None:
        try:
            with self._worker, self._clock.measure("convert", "export"):
                self._result = self._worker.write_checkpoint("export", self._request)
        except Exception as error:  # the test that needs the export raises it
            self._error = error


def can_export_early(subject: Subject, converted: Path, device: str) -> bool:
    """Return whether an export takes nothing from other work: neither cores, memory, nor its process."""
    from ci.subjects.memory import fits_beside_conversion

    if device == "cpu" or not isinstance(subject, WorkerSubject):
        return False
    return subject.converts_apart(str(converted)) and fits_beside_conversion(converted, device)
