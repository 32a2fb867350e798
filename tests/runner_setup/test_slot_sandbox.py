"""The sandbox is tried under the slot's own settings, and what cannot be tried is one line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ci.doctor.records import ProbeAnswer, SandboxState
from ci.records import to_json
from hub_runner import slot_checks
from hub_runner.registrar import RegistrarClient
from hub_runner.render import render_host_files
from hub_runner.slot_checks import diagnose_slot
from hub_runner.slot_sandbox import OF_THE_RUNNER, probe_slot_sandbox, probe_unit_name
from tests.ci.doctor import scenes

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config
    from hub_runner.layout import Layout

STATE = SandboxState(False, "/usr/bin/bwrap", "0.8.0", ProbeAnswer(True, "bubblewrap 0.8.0"), 1, 15000, 0)


def script(directory: Path, code: str) -> str:
    path = directory / "systemctl"
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_the_probe_has_the_settings_of_the_slot_and_none_of_its_runner(config: Config) -> None:
    files = render_host_files(config)
    slot = config.get_slot(1)
    own, probe = (
        files[f"etc/systemd/system/{name}"].text.partition("[Service]")[2].splitlines()
        for name in (slot.unit, probe_unit_name(slot))
    )
    left_out = [line for line in own if "=" in line and not line.startswith("#") and line not in probe]
    assert {line.partition("=")[0] for line in left_out} - OF_THE_RUNNER == {"WorkingDirectory", "BindPaths"}
    assert "BindPaths=/var/lib/hub-runner/slots/1/disk" in left_out, "the disk is made for each job"
    for needed in ("User=hub-slot-1", "PrivateUsers=yes", "RestrictNamespaces=no", "CapabilityBoundingSet="):
        assert needed in probe
    filters = [[line for line in lines if line.startswith("SystemCallFilter=")] for lines in (own, probe)]
    assert filters[0] == filters[1]
    assert f"etc/systemd/system/{probe_unit_name(config.get_slot(2))}" not in files, "it runs trusted code only"


def test_an_answer_is_read_and_every_other_end_is_one_line(config: Config, layout: Layout, tmp_path: Path) -> None:
    slot, answer = config.get_slot(0), layout.run / "probe-0.json"
    answer.write_text(to_json(STATE))
    missing = probe_slot_sandbox(slot, layout, systemctl=script(tmp_path, "exit 0"))
    assert "probe-0.json" in str(missing), "an earlier answer does not count"
    said = script(tmp_path, f"echo \"$@\" >'{tmp_path}/asked'; cat >'{answer}' <<'END'\n{to_json(STATE)}\nEND")
    assert probe_slot_sandbox(slot, layout, systemctl=said) == STATE
    assert (tmp_path / "asked").read_text().endswith("start hub-runner-slot-0-probe.service\n")
    failed = probe_slot_sandbox(slot, layout, systemctl=script(tmp_path, "echo noise >&2; echo 'no bus' >&2; exit 1"))
    assert failed == "cannot be tried: no bus"
    damaged = probe_slot_sandbox(slot, layout, systemctl=script(tmp_path, f"echo '{{' >{answer}"))
    assert isinstance(damaged, str)
    assert "\n" not in damaged
    assert "No such file" in str(probe_slot_sandbox(slot, layout, systemctl="/nowhere/systemctl"))


@pytest.mark.parametrize(
    ("sandbox", "reasons"),
    [
        (STATE, ()),
        (
            SandboxState(False, "/usr/bin/bwrap", "0.8.0", ProbeAnswer(False, "Permission denied"), 1, 15000, 0),
            ("sandbox: Permission denied",),
        ),
        ("cannot be tried under x", ("sandbox: cannot be tried under x",)),
    ],
)
def test_a_slot_is_offered_only_where_its_own_sandbox_starts(
    sandbox: SandboxState | str,
    reasons: tuple[str, ...],
    config: Config,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slot_checks, "probe_slot_sandbox", lambda *_: sandbox)
    monkeypatch.setattr(slot_checks, "probe_host", lambda *_: scenes.state())
    config = replace(config, doctor=replace(config.doctor, offline=True))
    diagnosis = diagnose_slot(config, config.get_slot(0), layout, RegistrarClient(layout.socket))
    about = tuple(reason for reason in diagnosis.reasons if reason.startswith(("sandbox", "bubblewrap", "user")))
    assert about == reasons
    assert diagnosis.fit is (diagnosis.reasons == ())
    store = diagnose_slot(config, config.get_slot(2), layout, RegistrarClient(layout.socket))
    assert store.fit or reasons, "of the slot that writes the store no sandbox is asked"
