"""Requests: as long as the measured speed asks for, and never across what was left out."""

from __future__ import annotations

from ci.hub.piece_plan import Part, Piece
from ci.hub.request_queue import FIRST_REQUEST, PARALLEL_OUTPUTS, SECONDS, RequestQueue

SIZE = 256 * 1024
MB = 1024**2


def pieces(count: int, *, shard: str = "a", skip: int | None = None, output: str = "out") -> list[Piece]:
    """Pieces side by side; after `skip` one is missing upstream."""
    places = [n + (skip is not None and n > skip) for n in range(count)]
    return [
        Piece(shard, at * SIZE, (at + 1) * SIZE, (Part(at * SIZE, (at + 1) * SIZE, output, n * SIZE),), at)
        for n, at in enumerate(places)
    ]


def test_all_are_given_out_once_in_order() -> None:
    queue = RequestQueue(pieces(100), range(100), largest=64 * MB)
    taken: list[int] = []
    while numbers := queue.take(4):
        taken += numbers
    assert taken == list(range(100))
    assert not queue


def test_a_few_files_grow_at_once_each_from_its_beginning() -> None:
    files = ["a", "b", "c", "d", "e", "f"]
    planned = [piece for file in files for piece in pieces(8, shard=file, output=file)]
    queue = RequestQueue(planned, range(len(planned)), largest=64 * MB)
    taken = []
    while numbers := queue.take(100):
        assert len(numbers) == 1
        taken.append(planned[numbers[0]])
    for number in range(8):
        grown = taken[number * PARALLEL_OUTPUTS : (number + 1) * PARALLEL_OUTPUTS]
        assert {(piece.shard, piece.position) for piece in grown} == {(file, number) for file in "abcd"}
    assert {piece.shard for piece in taken[8 * PARALLEL_OUTPUTS :]} == {"e", "f"}
    assert not queue


def test_without_a_measured_speed_requests_are_short() -> None:
    assert len(RequestQueue(pieces(1000), range(1000), largest=64 * MB).take(4)) == FIRST_REQUEST // SIZE


def test_a_request_lasts_about_as_long_as_it_should() -> None:
    queue = RequestQueue(pieces(4000), range(4000), largest=64 * MB)
    queue.report(8 * MB, 2.0)
    assert len(queue.take(4)) == 4 * MB * SECONDS / SIZE
    for _ in range(20):
        queue.report(10**9, 0.1)
    assert len(queue.take(4)) == 64 * MB // SIZE, "it is longer than the limit"


def test_the_last_requests_are_shared_among_the_streams() -> None:
    queue = RequestQueue(pieces(64), range(64), largest=64 * MB)
    queue.report(10**9, 0.1)
    sizes = [len(queue.take(4)) for _ in range(3)]
    assert sizes == [64 // 8, 56 // 8, 49 // 8]


def test_a_request_does_not_span_a_gap_or_a_piece_that_is_there() -> None:
    queue = RequestQueue(pieces(8, skip=1), [0, 1, 2, 4, 5, 6, 7], largest=64 * MB, costly=("a",))
    assert [queue.take(4) for _ in range(3)] == [[0, 1], [2], [4, 5, 6, 7]]


def test_requests_to_the_hub_itself_are_as_long_as_they_may_be() -> None:
    queue = RequestQueue(pieces(64), range(64), largest=10 * MB, costly=("a",))
    assert len(queue.take(64)) == 10 * MB // SIZE
