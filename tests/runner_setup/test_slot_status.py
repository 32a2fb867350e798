"""What is told about the slots: rows, metrics, the issue's text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from hub_runner.slot_state import SlotState, SlotStateFile
from hub_runner.slot_status import format_issue, format_metrics, list_status, seconds_since

if TYPE_CHECKING:
    from hub_runner.config import Config
    from hub_runner.layout import Layout


@pytest.fixture
def state_files(config: Config, layout: Layout) -> list[SlotStateFile]:
    return [SlotStateFile(layout.state, slot.index) for slot in config.resolved_slots]


def test_metrics_are_prometheus_text(config: Config, layout: Layout) -> None:
    SlotStateFile(layout.state, 1).write(SlotState(phase="quarantined", reason='quotes " and \n lines', jobs=4))
    SlotStateFile(layout.state, 2).drain("x")
    state_files = [SlotStateFile(layout.state, slot.index) for slot in config.resolved_slots]
    text = format_metrics(config, state_files, unknown_runners=2, now=time.time())
    lines = text.splitlines()
    for line in (
        'hub_runner_slot_phase{slot="1",phase="quarantined"} 1',
        'hub_runner_slot_phase{slot="1",phase="free"} 0',
        'hub_runner_jobs_total{slot="1"} 4',
        'hub_runner_slot_drained{slot="2"} 1',
        "hub_runner_strangers 2",
    ):
        assert line in lines
    assert all(line.startswith(("# ", "hub_runner_")) for line in lines)
    assert format_issue(config, state_files).startswith("1 of 3 slots")


def test_each_metric_has_its_help_and_type_once(config: Config, state_files: list[SlotStateFile]) -> None:
    lines = format_metrics(config, state_files, unknown_runners=0, now=0.0).splitlines()
    described = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert described == [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert {line.partition("{")[0].split()[0] for line in lines if line[0] != "#"} == set(described)
    assert len(described) == 6


def test_a_row_has_slot_gpus_wishes_and_state(config: Config, state_files: list[SlotStateFile]) -> None:
    state_files[1].drain("new card")
    rows = list_status(config, state_files)
    assert [(row["slot"], row["gpus"], row["drained"], row["phase"]) for row in rows] == [
        (0, [0], False, "free"),
        (1, [1, 2], True, "free"),
        (2, [], False, "free"),
    ]


def test_the_issue_names_slots_in_quarantine_only(config: Config, state_files: list[SlotStateFile]) -> None:
    state_files[0].write(SlotState(phase="free", reason="403"))
    assert format_issue(config, state_files) == ""
    state_files[1].write(SlotState(phase="quarantined", reason="xid: gpu1 Xid 79"))
    text = format_issue(config, state_files)
    assert text.startswith("1 of 3 slots are in quarantine; 2 can take jobs.")
    assert "- slot 1 (GPUs 1, 2): xid: gpu1 Xid 79" in text
    assert "403" not in text


def test_seconds_are_never_negative() -> None:
    assert seconds_since("1970-01-01T00:01:00+00:00", 90.0) == 30.0
    assert seconds_since("1970-01-01T00:01:00+00:00", 0.0) == 0.0
    assert seconds_since("", 90.0) == 0.0
