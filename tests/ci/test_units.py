import math
from datetime import UTC, datetime, timedelta

import pytest

from ci.errors import RequestError
from ci.units import (
    format_age,
    format_now,
    format_share,
    format_share_of_limit,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("500MB", 500_000_000), ("1.5 TB", 1_500_000_000_000), ("2g", 2 * 10**9), ("7GiB", 7 * 2**30)],
)
def test_parse_size(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1XB", "1e3"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(RequestError, match="expected a number with a unit"):
        parse_size(text)


def test_size_for_people() -> None:
    assert [format_size(n) for n in (0, 999, 1500, 6_329_376_768, 2 * 10**13)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "6.3 GB",
        "20.00 TB",
    ]


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "30m", "12h", " 1.5 D ")] == [90, 1800, 43200, 129600]
    for wrong in ("", "12", "-1h", "1w", "1e9d"):
        with pytest.raises(RequestError, match="expected a number with a unit, like 30m, 12h or 14d"):
            parse_duration(wrong)


def test_ages_for_people() -> None:
    assert [format_age(seconds) for seconds in (7, 150, 7200, 172800)] == ["7 s", "2 min", "2.0 h", "2.0 d"]


def test_this_moment_is_in_utc_to_the_second() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    moment = datetime.fromisoformat(format_now())
    assert moment.utcoffset() == timedelta(0)
    assert moment.microsecond == 0
    assert before <= moment <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("used", "share", "sentence"),
    [
        (0.0, "<1 %", "<1 % of the limit"),
        (0.43, "43 %", "43 % of the limit"),
        (2.0, "200 %", "200 % of the limit"),
        (4000.0, "4,000 x", "4,000 x the limit"),
        (2e7, "2.0e+07 x", "2.0e+07 x the limit"),
        (math.inf, "∞", "∞ x the limit"),
        (math.nan, "∞", "∞ x the limit"),
    ],
)
def test_a_share_reads_the_same_alone_and_in_a_sentence(used: float, share: str, sentence: str) -> None:
    assert (format_share(used), format_share_of_limit(used)) == (share, sentence)
