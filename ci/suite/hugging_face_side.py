"""Hugging Face's side of one model's comparison: where it runs, and its runs beside the subject's conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ci.equivalence.hf_reference import ReferenceRun
    from ci.equivalence.preparation import ReferencePreparation
    from ci.subjects.base import HuggingFaceRunner, Subject
    from ci.suite.model_run import ModelRun
    from ci.suite.source_checkpoint import SourceCheckpoint


class HuggingFaceSide:
    """Opens Hugging Face's side for one run; `stack` ends its worker, where it has one."""

    def __init__(self, run: ModelRun, source: SourceCheckpoint, stack: ExitStack) -> None:
        """Open nothing yet."""
        self._run = run
        self._source = source
        self._stack = stack
        self._preparation: ReferencePreparation | None = None

    def open(self, subject: Subject) -> HuggingFaceRunner:
        """Return Hugging Face's side: in this process, or in a worker where it is code that came with the model.

        That code is of the commit of the subject. Raises RemoteCodeError where there is no sandbox for it, RequestError
        where its environment is missing.
        """
        from ci.subjects.hugging_face import HuggingFace

        if not self._run.model.trust_remote_code:
            return HuggingFace()
        from ci.environments.reference import find_reference_python
        from ci.subjects.hugging_face.code_source import find_code_source
        from ci.subjects.hugging_face.worker import open_hugging_face

        run, options, checkpoint = self._run, self._run.options, self._source.find_directory()
        commit = options.subject_commit or subject.describe().commit
        return self._stack.enter_context(
            open_hugging_face(
                options.reference_python or find_reference_python(run.model, run.settings),
                find_code_source(run.model, options.subject_path, commit, self._source.own_code),
                run.isolation,
                path=options.reference_path,
                readable=(checkpoint,),
                timeout=options.timeout,
                log=run.choose_log_file("hugging_face"),
                clock=run.clock,
            )
        )

    def prepare(self, subject: Subject) -> bool:
        """Let Hugging Face run while the subject converts, and return whether it does.

        It needs a subject in another process, which leaves torch to this one's thread, and memory for both.
        """
        from ci.equivalence.device_usage import CostMeter
        from ci.equivalence.hf_reference import ReferenceRun
        from ci.equivalence.preparation import ReferencePreparation
        from ci.subjects.memory import fits_beside_conversion

        run, checkpoint = self._run, self._source.find_directory()
        if run.subject_python is None or not fits_beside_conversion(checkpoint, run.device):
            return False
        reference = ReferenceRun(
            checkpoint=checkpoint,
            params=run.model.test_params,
            hugging_face=self.open(subject),
            device=run.device,
            workdir=run.workdir / "reference",
            costs=CostMeter(clock=run.clock),
        )
        self._preparation = ReferencePreparation(reference)
        self._preparation.start()
        return True

    def finish(self) -> ReferenceRun | None:
        """Wait for the prepared run and return it; None where none was prepared."""
        if self._preparation is None:
            return None
        self._preparation.finish()
        return self._preparation.reference

    def stop(self) -> None:
        """Stop a prepared run that nobody waits for."""
        if self._preparation is not None:
            self._preparation.stop()
