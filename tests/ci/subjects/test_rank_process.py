"""One rank's files and variables; `test_ranks.py` starts real ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ci.errors import UnsupportedError
from ci.subjects.rank_process import Rank, describe_error, run_work

if TYPE_CHECKING:
    from pathlib import Path


def test_the_variables_are_those_of_torchrun(tmp_path: Path) -> None:
    variables = Rank(1, 3, tmp_path, 5).make_variables()
    assert (variables["RANK"], variables["LOCAL_RANK"]) == ("1", "1")
    assert (variables["WORLD_SIZE"], variables["LOCAL_WORLD_SIZE"]) == ("3", "3")
    assert variables["OMP_NUM_THREADS"] == "1"


def test_all_ranks_share_one_store_and_no_other_file(tmp_path: Path) -> None:
    first, second = (Rank(number, 2, tmp_path, 5) for number in range(2))
    assert first.store == second.store == f"file://{tmp_path}/store"
    assert first.path("log") != second.path("log")


def test_an_error_keeps_its_class_and_the_place_of_its_cause(tmp_path: Path) -> None:
    def refuse() -> None:
        try:
            raise ValueError("odd")
        except ValueError as problem:
            raise UnsupportedError("three heads on two ranks") from problem

    with pytest.raises(UnsupportedError) as caught:
        refuse()
    described = describe_error(caught.value)
    assert (described["failure"], described["message"]) == ("unsupported", "three heads on two ranks")
    assert described["place"].endswith("(refuse)")
    json.dumps(described)


def test_work_that_exits_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def leave(rank: Rank) -> None:
        raise SystemExit(0)

    rank = Rank(0, 1, tmp_path, 5)
    assert run_work(rank, leave, ()) == 1
    assert rank.path("error").exists()
    assert not rank.path("result").exists()
    assert "SystemExit" in capsys.readouterr().err
