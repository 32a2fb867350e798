"""A figure knows whether its target is met, and says so."""

from __future__ import annotations

from typing import Literal

import pytest

from benchmarks._figure import Figure, show, table


@pytest.mark.parametrize(("bound", "met"), [("≤", (True, True, False)), ("≥", (False, True, True))])
def test_met(bound: Literal["≤", "≥"], met: tuple[bool, ...]) -> None:
    assert tuple(Figure("x", value, bound, 2).met for value in (1, 2, 3)) == met


def test_table_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Figure("memory", 45.4, "≤", 150, "MB", "4 GB"), Figure("ratio", 2.0, "≤", 1.3)
    assert show([good]) == 0
    assert "| memory | 45.40 MB | ≤ 150 MB | ok | 4 GB |" in capsys.readouterr().out
    assert show([good, bad]) == 1
    assert "| ratio | 2.000 | ≤ 1.3 | **missed** |" in table([bad])
