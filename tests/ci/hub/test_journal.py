"""The journal alone: what it keeps, what it forgets, and when it starts over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.hub.download_plan import OutputFile, plan_output_files
from ci.hub.journal import JOURNAL, Journal, has_complete_pieces
from ci.hub.piece_plan import plan_pieces
from tests.ci.hub.test_piece_plan import source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def plan(*names: str) -> tuple[OutputFile, ...]:
    return plan_output_files([source(name, 10 * n, 10) for n, name in enumerate(names)], max_file_size=10**9)


def open_journal(directory: Path, outputs: Sequence[OutputFile]) -> Journal:
    return Journal(directory, outputs, plan_pieces(outputs, piece_size=5))


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[OutputFile, ...]:
    """A plan of four pieces, with its file in place."""
    outputs = plan("a", "b")
    open_journal(tmp_path, outputs)
    for output in outputs:
        (tmp_path / output.name).write_bytes(bytes(output.size))
    return outputs


def test_recorded_pieces_are_complete_the_next_time(tmp_path: Path, outputs: tuple[OutputFile, ...]) -> None:
    assert not has_complete_pieces(tmp_path)
    open_journal(tmp_path, outputs).record([0, 2])
    assert has_complete_pieces(tmp_path)
    assert open_journal(tmp_path, outputs).complete_pieces == {0, 2}


def test_a_torn_or_unknown_line_is_ignored_and_does_not_spoil_the_next(
    tmp_path: Path, outputs: tuple[OutputFile, ...]
) -> None:
    journal = open_journal(tmp_path, outputs)
    journal.record([1])
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"piece": "2"}\n3\n\x00\n{"piece": true}\n{"pie')
    journal.record([3])
    assert open_journal(tmp_path, outputs).complete_pieces == {1, 3}


def test_another_plan_deletes_everything(tmp_path: Path, outputs: tuple[OutputFile, ...]) -> None:
    open_journal(tmp_path, outputs).record([0])
    (tmp_path / "left-over").mkdir()
    assert open_journal(tmp_path, plan("a", "c")).complete_pieces == set()
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


@pytest.mark.parametrize("change", ["missing", "shorter"])
def test_a_file_that_is_not_whole_starts_over(tmp_path: Path, outputs: tuple[OutputFile, ...], change: str) -> None:
    open_journal(tmp_path, outputs).record([0])
    path = tmp_path / outputs[0].name
    path.unlink() if change == "missing" else path.write_bytes(b"")
    assert open_journal(tmp_path, outputs).complete_pieces == set()


def test_a_checkpoint_has_no_journal(tmp_path: Path, outputs: tuple[OutputFile, ...]) -> None:
    journal = open_journal(tmp_path, outputs)
    journal.remove()
    journal.remove()
    assert not (tmp_path / JOURNAL).exists()
    assert not has_complete_pieces(tmp_path)


def test_wrong_pieces_are_missing_the_next_time_until_they_are_recorded_again(
    tmp_path: Path, outputs: tuple[OutputFile, ...]
) -> None:
    journal = open_journal(tmp_path, outputs)
    journal.record([0, 1, 2])
    journal.forget([1, 2])
    journal.record([2])
    assert open_journal(tmp_path, outputs).complete_pieces == {0, 2}


def test_numbers_that_no_piece_has_do_not_count(tmp_path: Path, outputs: tuple[OutputFile, ...]) -> None:
    open_journal(tmp_path, outputs).record([-1, 3, 4])
    assert open_journal(tmp_path, outputs).complete_pieces == {3}
