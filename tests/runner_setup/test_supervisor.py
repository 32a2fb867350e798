"""The service around the state machines: runners that no slot knows, the issue, the watchdog, errors in one slot."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Literal

import pytest

from ci.errors import InfrastructureError
from hub_runner import supervisor as service
from hub_runner.interfaces import JitRunner, RegistrarUnavailableError
from hub_runner.registrar import RegistrarClient, Registration
from hub_runner.slot_state import SlotState, SlotStateFile
from hub_runner.supervisor import Supervisor
from tests.runner_setup.simulation import Simulation

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config, Slot
    from hub_runner.interfaces import UnitStatus
    from hub_runner.layout import Layout


class GitHub(RegistrarClient):
    """GitHub as a list in memory."""

    def __init__(self) -> None:
        self.registered: list[Registration] = []
        self.removed: list[int] = []
        self.issue: list[str] = []
        self.down = False

    def list_runners(self) -> tuple[Registration, ...]:
        if self.down:
            raise RegistrarUnavailableError("GitHub is down")
        return tuple(self.registered)

    def remove_runner(self, runner_id: int) -> Literal["removed", "busy"]:
        self.removed.append(runner_id)
        return "removed"

    def update_issue(self, text: str) -> str:
        self.issue.append(text)
        return "opened"

    def register(self, slot: int, name: str) -> JitRunner:
        self.registered.append(Registration(len(self.registered) + 1, name, online=False, busy=False))
        return JitRunner(len(self.registered), "secret")


class Machine(Simulation):
    """A healthy machine on which every slot's runner stays."""

    def __init__(self) -> None:
        super().__init__()
        self.running: set[int] = set()

    def read_unit(self, slot: Slot) -> UnitStatus:
        from hub_runner.interfaces import UnitStatus as Now

        return Now(slot.index in self.running)

    def start_runner(self, slot: Slot, jit: JitRunner) -> None:
        self.running.add(slot.index)


@pytest.fixture
def github_list() -> GitHub:
    return GitHub()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "TICK", 0.02)


@pytest.fixture
def supervisor(config: Config, layout: Layout, github_list: GitHub, quick: None) -> Supervisor:
    return Supervisor(config, layout, host=Machine(), registrar=github_list)


def page(layout: Layout, slot: int, **state: object) -> None:
    SlotStateFile(layout.state, slot).write(SlotState(**state))  # type: ignore[arg-type]


def running(supervisor: Supervisor) -> threading.Thread:
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    return thread


def until(what: object, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_slot_gets_its_runner_and_a_stop_leaves_the_jobs_alone(
    supervisor: Supervisor, config: Config, layout: Layout, github_list: GitHub
) -> None:
    thread = running(supervisor)
    pages = [SlotStateFile(layout.state, slot.index) for slot in config.resolved_slots]
    until(lambda: all(state_file.read().phase == "running" for state_file in pages))
    until(lambda: (layout.run / "metrics.prom").exists())
    supervisor.stop()
    thread.join(120)
    assert {state_file.read().phase for state_file in pages} == {"running"}
    assert len({each.name for each in github_list.registered}) == 3
    assert github_list.removed == []


def test_two_supervisors_on_one_slot(supervisor: Supervisor, config: Config, layout: Layout) -> None:
    thread = running(supervisor)
    try:
        until(lambda: (layout.run / "slot-2.lock").exists())
        with pytest.raises(InfrastructureError, match="slot 0 is taken by pid"):
            Supervisor(config, layout, host=Machine(), registrar=GitHub()).run()
    finally:
        supervisor.stop()
        thread.join(120)


def test_a_sweep_removes_what_no_slot_knows_and_tells_of_strangers(
    supervisor: Supervisor, layout: Layout, github_list: GitHub
) -> None:
    page(layout, 0, phase="running", runner_name="host-a-0-00000001")
    for number, (name, online) in enumerate(
        (("host-a-0-00000001", False), ("host-a-0-00000002", False), ("host-a-1-00000003", True)), start=1
    ):
        github_list.registered.append(Registration(number, name, online, busy=False))
    supervisor._remove_unknown_runners()
    assert github_list.removed == [2]
    assert supervisor.unknown_runners == 1


def test_trouble_with_github_stops_no_tick(supervisor: Supervisor, layout: Layout, github_list: GitHub) -> None:
    github_list.down = True
    supervisor._tick()
    assert (layout.run / "metrics.prom").exists()


def test_the_issue_follows_the_quarantine_and_is_not_repeated(
    supervisor: Supervisor, layout: Layout, github_list: GitHub
) -> None:
    supervisor._update_issue()
    page(layout, 1, phase="quarantined", reason="xid: gpu1 Xid 79")
    supervisor._update_issue()
    supervisor._update_issue()
    page(layout, 1, phase="free")
    supervisor._update_issue()
    assert len(github_list.issue) == 3
    assert github_list.issue[0] == github_list.issue[2] == ""
    assert "slot 1 (GPUs 1, 2): xid: gpu1 Xid 79" in github_list.issue[1]
    assert "1 of 3 slots" in github_list.issue[1]


def test_systemd_is_told_and_no_longer_once_a_slot_hangs(
    config: Config, layout: Layout, github_list: GitHub, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(120)
        watched = Supervisor(config, layout, host=Machine(), registrar=github_list, notify=str(tmp_path / "notify"))
        watched.last_step = {0: time.monotonic()}
        watched._tick()
        assert listener.recv(100) == b"WATCHDOG=1"
        watched.last_step = {0: time.monotonic(), 1: time.monotonic() - service.HUNG_AFTER - 1}
        watched._tick()
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.recv(100)


def test_a_bug_in_one_slot_is_told_and_the_others_go_on(
    config: Config, layout: Layout, github_list: GitHub, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Machine):
        def read_unit(self, slot: Slot) -> UnitStatus:
            if slot.index == 1:
                raise ZeroDivisionError
            return super().read_unit(slot)

    supervisor = Supervisor(config, layout, host=Broken(), registrar=github_list)
    thread = running(supervisor)
    until(
        lambda: SlotStateFile(layout.state, 0).read().phase == SlotStateFile(layout.state, 2).read().phase == "running"
    )
    supervisor.stop()
    thread.join(120)
    assert "slot 1: a bug in hub-runner" in caplog.text
