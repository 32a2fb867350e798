"""The worker's program of a consumer: one engine that answers requests, as `ci/subjects/worker_main.py` does.

It runs in the engine's interpreter, which needs nothing of ours except this package's directory.
"""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ci.consumers.base import Consumer


def main(arguments: list[str]) -> None:
    """Run `worker_main.py CONSUMER READ_FD WRITE_FD`: answer requests until the other side closes its end."""
    from ci.consumers.registry import create_consumer
    from ci.subjects.worker_main import answer_requests

    answer_requests(arguments, create_consumer, call_method)


def call_method(consumer: Consumer, method: str, arguments: dict[str, Any]) -> Any:
    """Call one method of the protocol; records go in and come out as plain values."""
    from ci.consumers.base import ContinueRequest, ScoreRequest
    from ci.records import to_dict
    from ci.subjects.base import Preparable

    if method == "describe":
        return to_dict(consumer.describe())
    if method == "score":
        return to_dict(consumer.score(ScoreRequest(**arguments)))
    if method == "continue_greedily":
        return to_dict(
            consumer.continue_greedily(ContinueRequest(**{**arguments, "stop_ids": tuple(arguments["stop_ids"])}))
        )
    if method == "prepare":
        if isinstance(consumer, Preparable):
            consumer.prepare()
        return True
    if method == "release":
        consumer.release()
        return True
    raise ValueError(f"unknown method {method!r}")


if __name__ == "__main__":
    name = runpy.run_path(str(Path(__file__).parents[1] / "subjects" / "worker_main.py"))["expose_package"]()
    import_module(f"{name}.consumers.worker_main").main(sys.argv[1:])
