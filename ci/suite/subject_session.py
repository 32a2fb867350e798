"""The subject of one model's run: opened with the run's options on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from ci.subjects.base import UsesCompileCache
from ci.subjects.failure import SubjectCrashError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from ci.errors import HubTestsError
    from ci.subjects.base import Subject
    from ci.suite.model_run import ModelRun


class SubjectSession:
    """Opens the subject once; `stack` ends its worker and frees its memory."""

    def __init__(self, run: ModelRun, stack: ExitStack) -> None:
        """Open nothing yet."""
        self._run = run
        self._stack = stack
        self._subject: Subject | None = None

    def start(self, checkpoint: Path) -> Subject:
        """Return the subject; open it on first use. A worker starts in its sandbox at once, and imports meanwhile.

        Raises SubjectCrashError where it could not be built, InfrastructureError where its environment is not here.
        """
        from ci.subjects.worker_subject import WorkerSubject

        if self._subject is None:
            self._subject = self._open(checkpoint)
            if isinstance(self._subject, WorkerSubject):
                self._subject.prepare_for(checkpoint)
        return self._subject

    def warm_device(self) -> None:
        """Let an open subject initialise its device beside what comes next, if it can."""
        from ci.subjects.worker_subject import WorkerSubject

        if isinstance(self._subject, WorkerSubject):
            self._subject.warm_device(self._run.device)

    def find_disk_failure(self) -> HubTestsError | None:
        """Return the error that says that the subject filled the disk, None where it did not."""
        from ci.subjects.worker_subject import WorkerSubject

        return self._subject.find_disk_failure() if isinstance(self._subject, WorkerSubject) else None

    def compile_cache_figures(self) -> dict[str, float]:
        """Return what an open subject reports of its compile cache; nothing where it has none."""
        started: object = self._subject
        return dict(started.compile_cache_figures()) if isinstance(started, UsesCompileCache) else {}

    def _open(self, checkpoint: Path) -> Subject:
        from ci.subjects.open_subject import open_subject

        run, options = self._run, self._run.options
        if options.environment_failure:
            raise InfrastructureError(options.environment_failure)
        if options.subject_failure:
            raise SubjectCrashError(options.subject_failure)
        return self._stack.enter_context(
            open_subject(
                run.subject,
                python=run.subject_python,
                path=options.subject_path,
                timeout=options.timeout,
                log=run.choose_log_file(run.offer.name),
                isolation=run.isolation,
                readable=(checkpoint,),
                variables=options.read_subject_variables(),
                compile_cache=run.compile_cache,
                clock=run.clock,
            )
        )
