"""The state file of a slot, and the operator's wishes beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hub_runner.slot_state import SlotState, SlotStateFile

if TYPE_CHECKING:
    from hub_runner.layout import Layout


@pytest.fixture
def state_file(layout: Layout) -> SlotStateFile:
    return SlotStateFile(layout.state, 0)


def test_what_is_written_is_read_with_its_time(state_file: SlotStateFile) -> None:
    assert state_file.read() == SlotState()
    written = state_file.write(SlotState(phase="running", runner_name="host-a-0-00000001", runner_id=7, orphans=(3, 4)))
    assert state_file.read() == written
    assert written.since


@pytest.mark.parametrize("text", ["{", "[]", '{"phase": "proving"}', '{"phase": "free", "colour": "red"}', "\0"])
def test_an_unreadable_state_is_taken_over_as_starting(state_file: SlotStateFile, text: str) -> None:
    """Also a state of an earlier version, which had other names for phases."""
    state_file.path.write_text(text)
    state = state_file.read()
    assert state.phase == "starting"
    assert state.reason.startswith("the state file was unreadable")


def test_the_operators_wishes_do_not_touch_the_state(state_file: SlotStateFile) -> None:
    state_file.write(SlotState(phase="running"))
    before = state_file.path.read_bytes()
    state_file.drain("new card")
    drained = state_file.drained
    state_file.resume()
    assert (drained, state_file.drained) == (True, False)
    assert state_file.path.read_bytes() == before


def test_a_wish_to_resume_is_taken_once(state_file: SlotStateFile) -> None:
    assert not state_file.take_resume_request()
    state_file.resume()
    assert state_file.take_resume_request()
    assert not state_file.take_resume_request()
