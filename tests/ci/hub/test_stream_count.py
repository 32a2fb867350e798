"""The number of streams: it grows while that helps, on a made-up line and clock."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ci.hub.stream_count import FIRST, Counts, StreamCount

if TYPE_CHECKING:
    from collections.abc import Callable


def simulate(
    throughput: Callable[[int], float],
    *,
    most: int = 64,
    seconds: float = 4.0,
    busy: float = 0.1,
    late: float = 0.0,
) -> list[int]:
    """Return the number of streams at each tick on a line that carries `throughput(streams)` bytes a second."""
    count, now, received, counts = StreamCount(most, 0.0), 0.0, 0.0, []
    while now < seconds:
        now += 0.05
        received += 0.05 * throughput(count.count)
        reads = int(1000 * now)
        counts.append(count.update(Counts(int(received), busy * now, reads, int(late * reads)), now))
    return counts


def test_a_rate_limit_of_each_connection_is_outgrown() -> None:
    counts = simulate(lambda streams: streams * 2e6)
    assert counts[0] == FIRST
    assert counts.index(64) * 0.05 < 1.0, "it takes too long"
    assert counts[-1] == 64


def test_a_full_line_keeps_few_streams() -> None:
    counts = simulate(lambda streams: min(streams * 2e6, 12e6))
    assert set(counts) == {FIRST, 32}
    assert counts.count(32) * 0.05 < 0.5
    assert counts[-1] == FIRST


def test_a_line_that_32_fill() -> None:
    assert simulate(lambda streams: min(streams * 2e6, 64e6))[-1] == 32


def test_more_is_tried_again_later() -> None:
    counts = simulate(lambda _: 12e6, seconds=10)
    assert len([1 for before, after in pairwise(counts) if after > before]) == 2


def test_a_busy_process_stays_with_few() -> None:
    assert set(simulate(lambda streams: streams * 1e9, busy=1.5)) == {FIRST}


def test_a_process_that_other_programs_keep_from_reading_stays_with_few() -> None:
    assert set(simulate(lambda streams: streams * 1e9, busy=0.3, late=0.95)) == {FIRST}
    assert simulate(lambda streams: streams * 2e6, busy=0.3, late=0.05)[-1] == 64


def test_the_limit_is_kept() -> None:
    assert max(simulate(lambda streams: streams * 2e6, most=20)) == 20
    assert set(simulate(lambda streams: streams * 2e6, most=3)) == {3}


def test_nothing_arrives() -> None:
    assert set(simulate(lambda _: 0.0)) == {FIRST}
