"""A pytest plugin that records each forward pass of the suite, so that `_bare` can repeat them."""

from __future__ import annotations

import json
import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.base import TraceRequest

TARGET = "HUB_TESTS_BENCHMARK_FORWARDS"
FORWARDS: list[dict[str, Any]] = []


def pytest_configure() -> None:
    """Record the traces of both sides."""
    from ci.subjects.hugging_face import HuggingFace
    from ci.subjects.reference.subject import ReferenceSubject

    HuggingFace.trace = recorded("hugging_face", HuggingFace.trace)  # type: ignore[method-assign]
    ReferenceSubject.trace = recorded("reference", ReferenceSubject.trace)  # type: ignore[method-assign]


def pytest_sessionfinish() -> None:
    """Write the recorded forward passes."""
    Path(os.environ[TARGET]).write_text(json.dumps(FORWARDS))


def recorded(who: str, trace: Callable[..., Any]) -> Callable[..., Any]:
    """Return `trace` with each successful forward pass added to FORWARDS."""

    @wraps(trace)
    def recording(subject: Any, request: TraceRequest) -> Any:
        result = trace(subject, request)
        known = {"who": who, "checkpoint": request.checkpoint, "dtype": request.dtype, "ran": dict(result.ran)}
        FORWARDS.append({**known, "shapes": shapes(Path(request.inputs), result.ran.get("batch") == "row_by_row")})
        return result

    return recording


def shapes(inputs: Path, by_row: bool) -> list[tuple[int, int]]:
    """Return (rows, tokens) of each call: the batch at once, or each row alone without padding."""
    tensors = load_file(inputs)
    rows, tokens = tensors["input_ids"].shape
    if not by_row:
        return [(rows, tokens)]
    lengths = tensors["attention_mask"].sum(1).tolist() if "attention_mask" in tensors else [tokens] * rows
    return [(1, length) for length in lengths]
