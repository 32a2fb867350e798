"""A consumer that runs in an interpreter of its own, under the same limits as a subject. Responses are untrusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ci.consumers.base import ConsumerDescription, ContinueRequest, ContinueResult, ScoreRequest, ScoreResult
from ci.records import to_dict
from ci.subjects.worker_calls import WorkerCalls

Result = TypeVar("Result", ScoreResult, ContinueResult)
CONSUMER_MAIN = Path(__file__).with_name("worker_main.py")


class WorkerConsumer:
    """The Consumer protocol over the pipes of a worker, which an `EngineWorker` starts, watches and ends."""

    def __init__(self, worker: EngineWorker) -> None:
        """Keep the worker; its process starts with the first call."""
        self._worker = worker

    def describe(self) -> ConsumerDescription:
        """Return the engine's name, version, libraries and flags."""
        return self._worker.describe_engine()

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Score tokens into a directory of files."""
        return self._worker.run_engine("score", request, ScoreResult)

    def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
        """Continue rows greedily into a directory of files."""
        return self._worker.run_engine("continue_greedily", request, ContinueResult)

    def release(self) -> None:
        """Unload the engine's model; a worker that is not running has none."""
        self._worker.release()


@dataclass
class EngineWorker(WorkerCalls):
    """The worker of an engine, with the calls of a consumer."""

    def describe_engine(self) -> ConsumerDescription:
        """Ask the engine for its description."""
        return self._call("describe", {}, ConsumerDescription)

    def run_engine(self, method: str, request: ScoreRequest | ContinueRequest, kind: type[Result]) -> Result:
        """Run one request over staged files, and take what the engine wrote to the request's output."""
        output = self._exchange.next_output()
        checkpoint, inputs = self._stage(request.checkpoint), self._stage(request.inputs)
        staged = replace(request, checkpoint=checkpoint, inputs=inputs, output=str(output))
        result = self._call(method, to_dict(staged), kind)
        self._take(method, output, Path(request.output))
        return result
