"""The supervisor's hands on a systemctl that is a script: what is asked in which order, and every way to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hub_runner import systemd
from hub_runner.interfaces import HostError, JitRunner, UnitStatus
from hub_runner.systemd import SystemdHost
from tests.runner_setup.conftest import config_text

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout

SCRIPT = """#!/bin/sh
shift 2
echo "$*" >>"{log}"
[ "$1" = start ] && [ -e "{jit}" ] && cat "{jit}" >>"{log}"
true
{special}
"""


class Hands(SystemdHost):
    """A host whose systemctl writes down what it is asked."""

    def __init__(self, layout: Layout, special: str = "") -> None:
        self.log = layout.root / "log"
        script = layout.root / "systemctl"
        script.write_text(SCRIPT.format(log=self.log, jit=layout.jit_config(0), special=special))
        script.chmod(0o755)
        super().__init__(layout, systemctl=str(script))

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


def test_starting_makes_a_disk_hands_the_secret_over_and_keeps_none(config: Config, layout: Layout) -> None:
    hands = Hands(layout)
    hands.start_runner(config.get_slot(0), JitRunner(1, "secret\n"))
    assert hands.asked == [
        "reset-failed hub-runner-slot-0.service",
        *("start hub-runner-disk@0.service", "secret"),
        *("start hub-runner-slot-0.service", "secret"),
    ]
    assert not layout.jit_config(0).exists()


def test_a_start_that_fails_keeps_no_secret(config: Config, layout: Layout) -> None:
    hands = Hands(layout, 'case "$*" in *slot-0*) echo "Job failed" >&2; exit 1;; esac')
    with pytest.raises(HostError, match=r"start hub-runner-slot-0\.service: Job failed"):
        hands.start_runner(config.get_slot(0), JitRunner(1, "secret"))
    assert not layout.jit_config(0).exists()


def test_stopping_keeps_the_logs_before_the_disk_goes(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "is_mounted", lambda _: True)
    layout.image(0).parent.mkdir(parents=True)
    layout.image(0).write_text("x")
    hands = Hands(layout)
    hands.stop_runner(config.get_slot(0))
    assert hands.asked == [
        "stop hub-runner-slot-0.service",
        "start hub-runner-logs@0.service",
        r"stop var-lib-hub\x2drunner-slots-0-disk.mount",
    ]
    assert not layout.image(0).exists()


def test_stopping_what_does_not_run_is_fine(config: Config, layout: Layout) -> None:
    hands = Hands(layout)
    hands.stop_runner(config.get_slot(0))
    assert hands.asked == ["stop hub-runner-slot-0.service"]


@pytest.mark.parametrize(
    ("state", "active"),
    [("active", True), ("activating", True), ("deactivating", True), ("inactive", False), ("failed", False)],
)
def test_a_unit_is_active_until_it_has_ended(config: Config, layout: Layout, state: str, active: bool) -> None:
    hands = Hands(layout, f'printf "ActiveState={state}\\nResult=exit-code\\nExecMainStatus=7\\n"')
    assert hands.read_unit(config.get_slot(0)) == UnitStatus(active, "exit-code", 7)


@pytest.mark.parametrize("special", ["echo nonsense", "exit 1", "echo ActiveState=active"])
def test_an_answer_that_is_none_is_an_error(config: Config, layout: Layout, special: str) -> None:
    with pytest.raises(HostError):
        Hands(layout, special).read_unit(config.get_slot(0))


def test_no_systemctl_is_an_error(config: Config, layout: Layout) -> None:
    with pytest.raises(HostError):
        SystemdHost(layout, systemctl="/nonexistent/systemctl").read_unit(config.get_slot(0))


def test_a_doctor_in_a_process_of_its_own(config: Config, layout: Layout) -> None:
    layout.config.write_text(config_text().replace("offline = false", "offline = true"))
    diagnosis = SystemdHost(layout).diagnose(config.get_slot(0))
    assert not diagnosis.fit
    assert "gpus" in {check.name for check in diagnosis.checks}


def test_a_doctor_that_dies_or_hangs_is_a_sick_host(
    config: Config, layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dying = SystemdHost(layout).diagnose(config.get_slot(0))  # there is no config to read
    assert (dying.fit, len(dying.reasons)) == (False, 1)
    assert "hub-runner doctor failed" in dying.reasons[0]
    monkeypatch.setattr(systemd, "EXAMINE_TIMEOUT", 0.01)
    assert "the GPU driver hangs" in SystemdHost(layout).diagnose(config.get_slot(0)).reasons[0]
    assert "the GPU driver hangs" in SystemdHost(layout).find_leftovers(config.get_slot(0))[0]
