"""Hugging Face's side in a worker: for a model whose code travels with it, in a sandbox of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ci.errors import RemoteCodeError, SubjectError
from ci.phases import PhaseClock
from ci.records import STRICT
from ci.subjects.base import ConvertResult
from ci.subjects.hugging_face.code_source import IMPORT_FAILED, ModelCodeSource
from ci.subjects.hugging_face.subject import CODE_VARIABLE
from ci.subjects.registry import HUGGING_FACE
from ci.subjects.training import TrainRequest, TrainResult, list_gradient_files
from ci.subjects.worker_launch import WorkerLaunch
from ci.subjects.worker_subject import WorkerSubject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.subjects.base import DType
    from ci.subjects.sandbox import Isolation
    from ci.subjects.worker_calls import Result


@dataclass(frozen=True)
class ResolvedConfig:
    """What the worker says of a config.json: the resolved keys, and the kernels that have plain stand-ins."""

    __pydantic_config__: ClassVar = STRICT
    config: Mapping[str, Any]
    stand_ins: tuple[str, ...]


@dataclass
class HuggingFaceWorker(WorkerSubject):
    """Runs Hugging Face checkpoints in a worker, as `HuggingFace` does in this process."""

    source: ModelCodeSource | None = None
    _resolved: dict[str, ResolvedConfig] = field(default_factory=dict, init=False)

    def resolve_config(self, checkpoint: str) -> dict[str, Any]:
        """Return config.json as the model's own config class understands it."""
        return dict(self._resolve(checkpoint).config)

    def write_model(self, source: str, target: str, dtype: DType, seed: int) -> ConvertResult:
        """Write a model with drawn weights at `target`, for the config.json in `source`."""
        output = self._exchange.next_output()
        arguments = {"source": self._stage(source), "target": str(output), "dtype": dtype, "seed": seed}
        result = self._call("write_model", arguments, ConvertResult)
        self._take("write_model", output, Path(target))
        return result

    def train(self, request: TrainRequest) -> TrainResult:
        """Run optimizer steps in one process and write each step's gradients."""
        return self._train("train", request, list_gradient_files(request.steps))

    def train_in_parts(self, request: TrainRequest) -> TrainResult:
        """Run the steps, and write the parts of the first gradient too."""
        return self._train("train_in_parts", request, list_gradient_files(request.steps))

    def describe_side(self, checkpoint: str, /) -> str:
        """Say which transformers runs whose code, and what stands in for kernels."""
        said = f"transformers {self.describe().version}, model code of {self.source}"
        stand_ins = self._resolve(checkpoint).stand_ins
        return f"{said}; plain PyTorch stands in for {', '.join(stand_ins)}" if stand_ins else said

    def runs_code_under_test(self) -> bool:
        """Return whether the modelling code lies in the subject's checkout."""
        return self.source is not None and not self.source.from_hub

    def _call(self, method: str, arguments: dict[str, Any], kind: type[Result]) -> Result:
        """Call the worker; code of the Hub that cannot be imported is no failure of the subject: RemoteCodeError."""
        try:
            return super()._call(method, arguments, kind)
        except SubjectError as problem:
            if self.source is not None and self.source.from_hub and IMPORT_FAILED in str(problem):
                raise RemoteCodeError(f"{self.source}: {problem}") from None
            raise

    def _resolve(self, checkpoint: str) -> ResolvedConfig:
        if checkpoint not in self._resolved:
            arguments = {"checkpoint": self._stage(checkpoint)}
            self._resolved[checkpoint] = self._call("resolve_config", arguments, ResolvedConfig)
        return self._resolved[checkpoint]


@contextmanager
def open_hugging_face(
    python: Path,
    source: ModelCodeSource,
    isolation: Isolation,
    *,
    environ: Mapping[str, str] | None = None,
    path: tuple[Path, ...] = (),
    readable: tuple[Path, ...] = (),
    timeout: float = 1800.0,
    log: Path | None = None,
    clock: PhaseClock | None = None,
) -> Iterator[HuggingFaceWorker]:
    """Open Hugging Face's side in the interpreter `python`, for the length of the context.

    `path` goes before its import path. Of `environ` (this process's by default) it gets what every worker gets.
    Raises RemoteCodeError where there is no sandbox: the code came with a model.
    """
    if not isolation.applied:
        raise RemoteCodeError(
            f"code that comes with a model runs in a sandbox only, and there is none: {isolation.description}; "
            "`hub-tests doctor` says what to install"
        )
    directory = source.directory.resolve()
    launch = WorkerLaunch(
        HUGGING_FACE,
        python,
        path,
        os.environ if environ is None else environ,
        log,
        isolation,
        (*readable, directory),
        {CODE_VARIABLE: str(directory)},
    )
    with HuggingFaceWorker(launch, timeout, clock or PhaseClock(), source=source) as worker:
        yield worker
