from __future__ import annotations

import pytest

from ci.report.number_format import format_duration, format_used_tolerance


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (119, "119 s"), (200, "3 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("used", "before", "text"),
    [
        (0.1, 0.04, "10 % of the limit, was 4 %"),
        (0.001, None, "<1 % of the limit"),
        (2.5, None, "250 % of the limit"),
        (4000.0, 0.1, "4,000 x the limit, was 10 %"),
        (3e9, None, "3.0e+09 x the limit"),
        (float("inf"), None, "∞ x the limit"),
        (None, 0.1, ""),
    ],
)
def test_margins(used: float | None, before: float | None, text: str) -> None:
    assert format_used_tolerance(used, before) == text
