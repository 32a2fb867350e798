"""The records of training steps travel as JSON and come back equal."""

from __future__ import annotations

from ci.records import read_json, to_json
from ci.subjects.training import OptimizerSettings, RankReport, TrainRequest, TrainResult


def test_a_request_comes_back_from_json() -> None:
    request = TrainRequest("a", "b", "c", "llama", layout="tp2", optimizer=OptimizerSettings(max_gradient_norm=1.0))
    assert read_json(TrainRequest, to_json(request), what="a request") == request


def test_a_result_comes_back_from_json() -> None:
    rank = RankReport(0, {"tensor": (0, 1)}, "cpu", {"weight": (4, 2)})
    result = TrainResult((1.0,), ({},), (2.0,), (rank,), "gloo", {"layout": "tp2"}, 3.0)
    assert read_json(TrainResult, to_json(result), what="a result") == result
