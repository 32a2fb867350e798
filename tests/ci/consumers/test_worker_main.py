"""The program of a consumer's worker: methods by name, records in and out."""

import pytest

from ci.consumers.base import ConsumerDescription, ContinueRequest, ContinueResult, ScoreRequest, ScoreResult
from ci.consumers.worker_main import call_method


class Recording:
    """A consumer that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def describe(self) -> ConsumerDescription:
        return ConsumerDescription("stand-in", "1", "3")

    def score(self, request: ScoreRequest) -> ScoreResult:
        self.asked.append(request)
        return ScoreResult(3, "float32", 0.1)

    def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
        self.asked.append(request)
        return ContinueResult(0.1)

    def release(self) -> None:
        self.asked.append("release")


def test_requests_become_records_and_results_plain_values() -> None:
    consumer = Recording()
    paths = {"checkpoint": "/c", "inputs": "/i", "output": "/o"}
    assert call_method(consumer, "describe", {})["consumer"] == "stand-in"
    assert call_method(consumer, "score", paths)["tokens"] == 3
    assert call_method(consumer, "continue_greedily", {**paths, "stop_ids": [5]})["seconds"] == 0.1
    assert call_method(consumer, "prepare", {})
    assert call_method(consumer, "release", {})
    expected = [ScoreRequest("/c", "/i", "/o"), ContinueRequest("/c", "/i", "/o", stop_ids=(5,)), "release"]
    assert consumer.asked == expected
    with pytest.raises(ValueError, match="unknown method 'train'"):
        call_method(consumer, "train", {})
