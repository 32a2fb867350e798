"""Seconds of compilation, by the real counters of torch; Triton's are called as Triton calls them."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ci.subjects.compile_time import count_compilation


def test_what_torch_compiles_counts_and_what_is_compiled_does_not() -> None:
    def double(value: torch.Tensor) -> torch.Tensor:
        return value * 2

    torch._dynamo.reset()
    compiled = torch.compile(double, backend="eager")
    started = time.perf_counter()
    with count_compilation() as first:
        compiled(torch.ones(2))
    wall = time.perf_counter() - started
    with count_compilation() as second:
        compiled(torch.ones(2))
    assert 0 < first.seconds <= wall
    assert second.seconds == 0.0


def test_what_triton_compiles_counts_and_its_other_listener_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    knobs = SimpleNamespace(compilation=SimpleNamespace(listener=lambda **compiled: heard.append(compiled)))
    monkeypatch.setitem(sys.modules, "triton.knobs", knobs)
    before = knobs.compilation.listener
    with count_compilation() as counted:
        knobs.compilation.listener(src=None, times=SimpleNamespace(total=1_500_000), cache_hit=False)
        monkeypatch.setattr("torch._guards.CompileContext.try_get", lambda: object())
        knobs.compilation.listener(src=None, times=SimpleNamespace(total=9_000_000), cache_hit=False)
    assert counted.seconds == pytest.approx(1.5)
    assert len(heard) == 2
    assert knobs.compilation.listener is before


def test_versions_without_counters_count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch._dynamo.utils", "triton.knobs"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    with count_compilation() as counted:
        pass
    assert counted.seconds == 0.0
