"""Runs Hugging Face's part of a comparison in a thread of its own, while the subject converts the checkpoint."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ci.equivalence.hf_reference import ReferenceRun


class ReferencePreparation:
    """Measures what a comparison needs of Hugging Face, in float32 and in the model's dtype.

    Nothing else may use torch in this process until `finish` or `stop` returns. An error is kept by nobody: the check
    that needs what is missing measures it again, and fails there.
    """

    def __init__(self, reference: ReferenceRun) -> None:
        """Look at the free memory, on which the inputs depend, before anything else takes of it; start nothing yet."""
        self.reference = reference
        self.free_bytes = reference.free_bytes
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def finish(self) -> None:
        """Wait until the thread has ended; its seconds count as the wall time's from now on."""
        if self._thread.is_alive():
            with self.reference.costs.clock.wait():
                self._thread.join()

    def stop(self) -> None:
        """End the thread after the forward pass in which it is."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with suppress(Exception):
            for dtype in dict.fromkeys(("float32", self.reference.model_dtype)):
                self.reference.prepare(dtype, stop=self._stopped.is_set)
