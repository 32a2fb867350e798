"""The line that says which rank failed, from made-up ends."""

from __future__ import annotations

import signal

import pytest

from ci.errors import HubTestsError, SubjectError, UnsupportedError
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError
from ci.subjects.rank_failure import Frame, RankEnd, describe_place, make_rank_error, read_stack

CLOSED = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:26817"
WAITED = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation"

STACK = """\
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 355 in wait
Current thread 0x00007f0000000002 [python] (most recent call first):
  File "/env/lib/torch/distributed/distributed_c10d.py", line 3000 in all_reduce
  File "/env/lib/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/checkout/framework/parallel/reduce.py", line 12 in reduce_gradients
  File "/checkout/framework/train.py", line 99 in step
"""


def failed(rank: int, message: str, *, failure: str = "error", place: str = "") -> RankEnd:
    return RankEnd(rank, 1, failure=failure, message=message, place=place)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ends", "kind", "line"),
    [
        pytest.param(
            [failed(0, CLOSED), failed(1, "ValueError: odd (pkg/a.py:3)")],
            SubjectError,
            "rank 1 of 2: ValueError: odd (pkg/a.py:3)",
            id="one raises, the other loses its connection",
        ),
        pytest.param(
            [failed(0, CLOSED), RankEnd(1, -signal.SIGABRT, place="was at a.py:3 (f)", said="what(): size")],
            SubjectCrashError,
            "rank 1 of 2 was killed by SIGABRT: was at a.py:3 (f): what(): size",
            id="one dies",
        ),
        pytest.param(
            [RankEnd(0, -signal.SIGKILL), failed(1, "ValueError: odd")],
            SubjectCrashError,
            "rank 0 of 2 was killed by SIGKILL (probably out of memory)",
            id="a death comes before an exception",
        ),
        pytest.param(
            [failed(0, "no experts", failure="unsupported"), failed(1, "no experts", failure="unsupported")],
            UnsupportedError,
            "no experts",
            id="all refuse",
        ),
        pytest.param(
            [RankEnd(0, 0), RankEnd(1, None, place="waits in all_reduce at a.py:3 (f)")],
            SubjectTimeoutError,
            "the ranks did not finish within 20 s: rank 0 ended; rank 1 waits in all_reduce at a.py:3 (f)",
            id="one hangs",
        ),
        pytest.param(
            [failed(0, WAITED, place="waits in all_reduce at a.py:3 (f)"), RankEnd(1, None, place="was at b.py:4 (g)")],
            SubjectTimeoutError,
            f"the ranks waited for one another: rank 0: {WAITED} (waits in all_reduce at a.py:3 (f)); "
            "rank 1 was at b.py:4 (g)",
            id="one gives up, the other is elsewhere",
        ),
        pytest.param(
            [failed(0, CLOSED), failed(1, CLOSED)],
            SubjectTimeoutError,
            f"the ranks waited for one another: rank 0: {CLOSED}; rank 1: {CLOSED}",
            id="nobody is the cause",
        ),
    ],
)
def test_the_cause_is_named(ends: list[RankEnd], kind: type[HubTestsError], line: str) -> None:
    error = make_rank_error(ends, 20)
    assert (type(error), str(error)) == (kind, line)


def test_a_stack_becomes_a_place() -> None:
    frames = read_stack(STACK)
    assert len(frames) == 4
    assert describe_place(frames) == "waits in all_reduce at framework/parallel/reduce.py:12 (reduce_gradients)"
    assert describe_place(frames[2:]) == "was at framework/parallel/reduce.py:12 (reduce_gradients)"


def test_a_thread_in_a_collective_is_shown_before_the_main_one() -> None:
    worker = 'Thread 0x01 (most recent call first):\n  File "/a/torch/d.py", line 1 in broadcast\n'
    main = 'Current thread 0x02 (most recent call first):\n  File "/a/main.py", line 2 in backward\n'
    assert read_stack(worker + main) == [Frame("/a/torch/d.py", 1, "broadcast")]
    assert read_stack(main) == [Frame("/a/main.py", 2, "backward")]
    assert (read_stack(""), describe_place([])) == ([], "")
