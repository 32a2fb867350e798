"""Ranks that end well, raise, die, hang and disagree: real processes over gloo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.failure import SubjectCrashError, SubjectTimeoutError
from ci.subjects.interpreter_paths import list_interpreter_directories
from ci.subjects.ranks import run_ranks
from ci.subjects.sandbox import SandboxPolicy, detect_isolation, sandbox_command
from tests.ci.subjects.rank_work import add_ranks, close_group, open_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.subjects.rank_process import Rank

ISOLATION = detect_isolation()
ROOT = Path(__file__).parents[3]


def list_children() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
        return file.read().split()


@pytest.fixture(autouse=True)
def _no_rank_is_left() -> Any:
    before = list_children()
    yield
    assert list_children() == before


def test_ranks_compute_together_and_results_come_in_order() -> None:
    assert run_ranks(add_ranks, 3, 10.0, seconds=120) == [(0, 33.0, 1), (1, 33.0, 1), (2, 33.0, 1)]


def test_a_function_need_not_be_a_module_s_own() -> None:
    base = 5
    assert run_ranks(lambda rank: base + rank.number, 2, seconds=120) == [5, 6]


@pytest.mark.long
def test_new_interpreters_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    assert run_ranks(add_ranks, 2, 10.0, seconds=120, fork=False) == [(0, 21.0, 1), (1, 21.0, 1)]


def raise_on_one(rank: Rank, error: Exception) -> None:
    open_group(rank)
    if rank.number == 1:
        raise error
    dist.all_reduce(torch.ones(1))
    close_group()


@pytest.mark.parametrize("kind", [UnsupportedError, SubjectError])
def test_the_rank_that_raises_is_named_with_its_class(kind: type[SubjectError]) -> None:
    with pytest.raises(SubjectError, match=r"^rank 1 of 2: five heads$") as caught:
        run_ranks(raise_on_one, 2, kind("five heads"), seconds=120)
    assert caught.type is kind


def die_on_one(rank: Rank, number: int) -> None:
    open_group(rank)
    if rank.number == 1:
        os.kill(os.getpid(), number)
    dist.all_reduce(torch.ones(1))


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL"])
def test_the_rank_that_dies_is_named_with_its_place(name: str) -> None:
    with pytest.raises(SubjectCrashError, match=rf"^rank 1 of 2 was killed by {name}") as caught:
        run_ranks(die_on_one, 2, getattr(signal, name), seconds=120)
    assert ("(die_on_one)" in str(caught.value)) == (name != "SIGKILL")


def sleep_on_one(rank: Rank) -> None:
    open_group(rank)
    if rank.number == 1:
        time.sleep(600)
    dist.all_reduce(torch.ones(1))


def read_timeout(work: Any, count: int, limits: Sequence[float], said: str) -> None:
    """Let ranks run into a limit, a longer one where they had not come so far; match the message."""
    for seconds in limits:
        with pytest.raises(SubjectTimeoutError) as caught:
            run_ranks(work, count, seconds=seconds)
        if re.search(said, str(caught.value)):
            return
    pytest.fail(str(caught.value))


def test_a_rank_that_never_comes_ends_in_the_limit_of_a_collective() -> None:
    started = time.monotonic()
    read_timeout(
        sleep_on_one,
        2,
        (4, 20, 100),
        r"rank 0: RuntimeError.*waits in all_reduce at.*rank 1 was at.*\(sleep_on_one\)",
    )
    assert time.monotonic() - started < 300


def wait_for_ever(rank: Rank) -> None:
    open_group(rank, seconds=600)
    if rank.number == 1:
        dist.all_reduce(torch.ones(1))
    elif rank.number == 2:
        time.sleep(600)


def test_a_hang_names_each_rank_s_place() -> None:
    places = r"rank 0 ended; rank 1 waits in all_reduce at .*subjects/test_ranks\.py.*rank 2 was at .*\(wait_for_ever\)"
    read_timeout(wait_for_ever, 3, (3, 15, 75), rf"^the ranks did not finish within (3|15|75) s: {places}")


def reduce_unequal_sizes(rank: Rank) -> None:
    open_group(rank)
    dist.all_reduce(torch.ones(4 + 60 * rank.number))
    close_group()


def test_unequal_sizes_are_an_error_of_a_rank_and_no_hang() -> None:
    with pytest.raises(SubjectError, match=r"rank [01]"):
        run_ranks(reduce_unequal_sizes, 2, seconds=120)


def exit_early(rank: Rank) -> None:
    if rank.number == 1:
        os._exit(7)


def test_a_rank_that_exits_without_a_word_is_named() -> None:
    with pytest.raises(SubjectError, match=r"^rank 1 of 2: exited with code 7"):
        run_ranks(exit_early, 2, seconds=120)


def fill_its_log(rank: Rank) -> None:
    print(f"loading on {rank.number}")


def test_what_ranks_print_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    run_ranks(fill_its_log, 2, seconds=120)
    assert capfd.readouterr().err.splitlines() == ["[rank 0] loading on 0", "[rank 1] loading on 1"]


@pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}")
@pytest.mark.parametrize("fork", [True, pytest.param(False, marks=pytest.mark.long)])
def test_ranks_talk_inside_a_sandbox_without_a_network(fork: bool) -> None:
    code = (
        "from ci.subjects.ranks import run_ranks\n"
        "from tests.ci.subjects.rank_work import add_ranks\n"
        f"print(run_ranks(add_ranks, 2, 10.0, seconds=100, fork={fork}))"
    )
    python = Path(sys.executable)
    policy = SandboxPolicy((*list_interpreter_directories(python), ROOT / "ci", ROOT / "tests"), gpus=False)
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = sandbox_command(ISOLATION, policy, [str(python), "-c", code], variables)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "[(0, 21.0, 1), (1, 21.0, 1)]", done.stderr
