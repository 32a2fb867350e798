"""What is complete, and who waits for it."""

from __future__ import annotations

import threading

import pytest

from ci.hub.connection import Interrupted
from ci.hub.piece_plan import Part, Piece
from ci.hub.piece_state import PieceState


@pytest.fixture
def state() -> PieceState:
    pieces = [Piece("a", 10 * n, 10 * n + 10, (Part(10 * n, 10 * n + 10, "out", 10 * n),), n) for n in range(5)]
    return PieceState(pieces, [0])


def test_counts_complete_pieces_and_running_requests(state: PieceState) -> None:
    assert (state.received, state.missing) == (10, [1, 2, 3, 4])
    state.note_progress(1, 12)
    assert state.received == 22
    state.mark_complete([1, 2])
    assert (state.received, state.missing) == (30, [3, 4])
    assert state.take_unsynced() == [1, 2]
    assert state.take_unsynced() == []


def test_forgotten_pieces_are_missing(state: PieceState) -> None:
    state.mark_complete([1, 2])
    state.forget([1, 4])
    assert (state.received, state.missing) == (20, [1, 3, 4])


def test_waiting_ends_when_the_piece_is_there_or_nothing_comes_any_more(state: PieceState) -> None:
    state.wait_for(0)
    threading.Timer(0.05, state.mark_complete, [[3]]).start()
    state.wait_for(3)
    threading.Timer(0.05, state.stop).start()
    with pytest.raises(Interrupted):
        state.wait_for(4)
    state.pause(60)
