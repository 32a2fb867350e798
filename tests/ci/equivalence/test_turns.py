"""The device's turns: on a GPU one side lets go before the other loads; on the CPU everybody keeps what they have."""

from __future__ import annotations

from ci.equivalence.turns import Turns


class Holder:
    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


def test_on_a_gpu_whoever_had_the_device_lets_go() -> None:
    turns, one, other = Turns("cuda"), Holder(), Holder()
    for who in (one, one, other, one):
        turns.take(who)
    assert (one.released, other.released) == (1, 1)


def test_on_the_cpu_nobody_lets_go() -> None:
    turns, one, other = Turns("cpu"), Holder(), Holder()
    turns.take(one)
    turns.take(other)
    assert one.released == 0
