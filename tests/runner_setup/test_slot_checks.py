"""What is asked before a job and looked for after it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.doctor.records import Clock, ProbeAnswer, RunnerInstall
from ci.records import to_json
from hub_runner import slot_checks
from hub_runner.files import write_atomically
from hub_runner.registrar import RegistrarClient
from hub_runner.slot_checks import (
    build_doctor_request,
    diagnose_slot,
    find_leftovers,
    find_processes,
    is_mounted,
    reject_backward_clock,
)
from tests.ci.doctor.scenes import nvml, tape
from tests.ci.doctor.tape import Player

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout

OTHER_UID = 60799


def test_a_gpu_slot_asks_for_its_gpus_strictly_and_the_store_closed(config: Config, layout: Layout) -> None:
    request = build_doctor_request(config, config.get_slot(1), layout)
    assert (request.only, request.strict, request.job_user) == ((1, 2), True, "hub-slot-1")
    assert request.store == "/srv/hub-tests"
    assert build_doctor_request(config, config.get_slot(2), layout).store is None
    assert build_doctor_request(config, config.get_slot(2), layout).gpus == 0
    assert not request.images
    images = replace(config, environments=replace(config.environments, images=True))
    assert build_doctor_request(images, config.get_slot(1), layout).images


class Hub(RegistrarClient):
    """A registrar that tells about the Hub what it was given."""

    def __init__(self, answer: ProbeAnswer, skew: float | None) -> None:
        self.answer, self.skew = answer, skew

    def check_hub(self, endpoint: str) -> tuple[ProbeAnswer, float | None]:
        return self.answer, self.skew


@pytest.fixture
def online(config: Config, layout: Layout) -> Config:
    """A host whose every other condition this machine fulfils."""
    layout.environments.mkdir(parents=True, exist_ok=True)
    return replace(config, doctor=replace(config.doctor, min_free_gib=0))


@pytest.mark.parametrize(
    ("hub", "skew", "reason"),
    [
        (ProbeAnswer(True, "answered"), 0.5, ""),
        (ProbeAnswer(True, "answered"), 7200.0, "clock"),
        (ProbeAnswer(False, "refused"), None, "hub"),
    ],
)
def test_the_hub_and_its_clock_are_asked_through_the_registrar(
    online: Config, layout: Layout, hub: ProbeAnswer, skew: float | None, reason: str
) -> None:
    current = layout.runners / "current"
    current.mkdir()
    now = "2026-11-10T00:00:00Z"
    write_atomically(current / "hub-runner.json", to_json(RunnerInstall("2.336.0", now, "0" * 64, now)))
    diagnosis = diagnose_slot(online, online.get_slot(2), layout, Hub(hub, skew))
    failed = {check.name for check in diagnosis.checks if check.status == "fail"}
    assert failed - {"runner"} == ({reason} if reason else set())  # the runner's age depends on today


def test_a_clock_that_is_set_back_does_not_make_a_runner_younger(tmp_path: Path) -> None:
    mark = tmp_path / "clock"
    assert reject_backward_clock(Clock(1000.0, True), mark).now == 1000.0
    assert reject_backward_clock(Clock(400.0, False), mark).now == 1000.0
    assert reject_backward_clock(Clock(2000.0, False), mark).now == 2000.0
    assert reject_backward_clock(Clock(400.0, False), mark).now == 1000.0  # nobody vouched for 2000
    assert reject_backward_clock(Clock(500.0, False, skew=1.0), mark).now == 500.0  # a server did for this
    assert reject_backward_clock(Clock(400.0, None, skew=900.0), mark).now == 500.0


def test_an_unreadable_mark_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("yesterday")
    assert reject_backward_clock(Clock(400.0, False), tmp_path / "clock").now == 400.0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_process_of_the_slots_user_is_found_wherever_it_fled() -> None:
    assert find_processes(OTHER_UID) == ()
    sleeper = subprocess.Popen(["sleep", "60"], user=OTHER_UID, start_new_session=True)
    try:
        assert find_processes(OTHER_UID) == (f"pid {sleeper.pid} sleep",)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert find_processes(OTHER_UID) == ()


def test_a_process_that_is_dead_already_is_none(tmp_path: Path) -> None:
    for pid, state in ((1, "Z (zombie)"), (2, "D (disk sleep)")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / f"{pid}/status").write_text(f"Name:\tpython3\nState:\t{state}\nUid:\t0\t0\t7\t0\n")
    assert find_processes(7, tmp_path) == ("pid 2 python3",)


def test_memory_and_processes_on_the_slots_gpus_are_left_over(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = {"pid": 999_999_999, "usedGpuMemory": 1 << 30}
    used = {"total": 80 << 30, "used": 70 << 30, "free": 10 << 30}
    held = {"nvmlDeviceGetMemoryInfo(gpu0)": used, "nvmlDeviceGetComputeRunningProcesses(gpu2)": [process]}
    monkeypatch.setattr(slot_checks, "read_nvml", lambda: nvml(held))
    monkeypatch.setattr(slot_checks, "find_processes", lambda _: ())  # other tests have processes of the slots' users
    assert find_leftovers(config, config.get_slot(0), layout) == ("71680 MiB in use on gpu0",)
    assert find_leftovers(config, config.get_slot(1), layout) == ("pid 999999999 ? on gpu2",)
    assert find_leftovers(config, config.get_slot(2), layout) == ()
    assert Player(tape()).nvmlDeviceGetCount() == 1


def test_a_mounted_disk_is_left_over(config: Config, layout: Layout, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 2 7:0 / {layout.disk(0)} rw,nosuid - ext4 /dev/loop0 rw\n")
    assert is_mounted(layout.disk(0), mounts)
    assert not is_mounted(layout.disk(1), mounts)
    mounts.write_text("1 2 7:0 / /a\\040b\\134c rw,nosuid - ext4 /dev/loop0 rw\n")  # as mountinfo(5) writes it
    assert is_mounted(type(tmp_path)("/a b\\c"), mounts)


def test_the_verb_prints_a_list(layout: Layout, config: Config) -> None:
    from tests.runner_setup.conftest import config_text

    layout.config.write_text(config_text())
    command = [sys.executable, "-I", "-m", "hub_runner", "--root", str(layout.root), "leftovers", "--slot", "2"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
