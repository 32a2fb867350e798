"""The whole installation into an empty root, and the drift of what is installed from the one file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from hub_runner.__main__ import main
from hub_runner.config_file import parse_config
from hub_runner.install import find_install_problems
from hub_runner.render import render_all_files
from tests.runner_setup.conftest import EXAMPLE, config_text

if TYPE_CHECKING:
    from pathlib import Path

    from hub_runner.config import Config

needs_systemd = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None, reason="needs root, and apt-get install systemd"
)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def run(root: Path, *verb: str, config: Path = EXAMPLE) -> int:
    return main(["--root", str(root), "--config", str(config), *verb])


def test_a_dry_run_names_every_step_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "install", "--dry-run") == 0
    told = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert f"write {tmp_path}/etc/hub-runner/firewall.nft (0644)" in told
    assert "systemd-sysusers --root=" in told
    assert main(["--config", str(EXAMPLE), "install", "--dry-run"]) == 0
    on_a_host = capsys.readouterr().out
    order = [
        "systemd-sysusers",
        "daemon-reload",
        "reload-or-restart hub-runner-firewall",
        "restart hub-runner-supervisor",
    ]
    assert [on_a_host.index(step) for step in order] == sorted(on_a_host.index(step) for step in order)


@needs_systemd
def test_an_empty_root_becomes_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "install") == 0
    users = (tmp_path / "etc/passwd").read_text()
    for slot in parse_config(EXAMPLE.read_text(), what="x").resolved_slots:
        assert f"{slot.user}:x:{slot.uid}:{slot.uid}:" in users
        assert (tmp_path / f"var/lib/hub-runner/slots/{slot.index}/disk").stat().st_mode & 0o777 == 0o700
    assert "/usr/sbin/nologin" in users
    store = (tmp_path / "srv/hub-tests").stat()
    assert (store.st_uid, store.st_mode & 0o777) == (60702, 0o755)
    enabled = tmp_path / "etc/systemd/system/multi-user.target.wants/hub-runner-supervisor.service"
    assert enabled.is_symlink()
    assert run(tmp_path, "check") == 0
    before = files(tmp_path)
    assert run(tmp_path, "install") == 0
    assert files(tmp_path) == before


@needs_systemd
def test_whatever_drifts_from_the_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "install") == 0
    (tmp_path / "etc/hub-runner/firewall.nft").write_text("table inet hub_runner {}\n")
    (tmp_path / "opt/hub-runner/libexec/slot-run").chmod(0o700)
    (tmp_path / "etc/systemd/system/hub-runner-slot-0.service").unlink()
    (tmp_path / "etc/systemd/system/hub-runner-slot-9.service").write_text("[Service]\n")
    capsys.readouterr()
    assert run(tmp_path, "check") == 2
    assert set(capsys.readouterr().out.splitlines()) == {
        "etc/hub-runner/firewall.nft: changed",
        "opt/hub-runner/libexec/slot-run: mode",
        "etc/systemd/system/hub-runner-slot-0.service: missing",
        "etc/systemd/system/hub-runner-slot-9.service: left over",
    }
    assert run(tmp_path, "install") == 0
    assert run(tmp_path, "check") == 0


def test_everything_follows_from_the_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One more GPU, another label, another way out: each shows wherever it has to."""
    changed = tmp_path / "changed.toml"
    text = config_text().replace("gpus = [1, 2]", "gpus = [1, 2, 5]").replace('"h100"', '"b200"')
    allow = '[[egress.allow]]\naddress = "10.0.0.53"\nport = 53\nprotocol = "udp"\nwhy = "resolver"\n\n[admission]'
    changed.write_text(text.replace("[admission]", allow))
    assert run(tmp_path, "render", "--out", str(tmp_path / "out"), config=changed) == 0
    out = tmp_path / "out"
    assert "DeviceAllow=/dev/nvidia5 rw" in (out / "etc/systemd/system/hub-runner-slot-1.service").read_text()
    assert "DeviceAllow=/dev/nvidia5 rw" in (out / "etc/systemd/system/hub-runner-supervisor.service").read_text()
    assert "IPAddressAllow=localhost 10.0.0.53" in (out / "etc/systemd/system/hub-runner-slot-0.service").read_text()
    assert "ip daddr 10.0.0.53 udp dport 53 counter accept" in (out / "etc/hub-runner/firewall.nft").read_text()
    labels = json.loads((out / "etc/hub-runner/labels.json").read_text())
    assert labels["3"] == ["self-hosted", "linux", "x64", "hub-tests", "b200", "gpus-3"]
    values = (out / "kubernetes/values-gpus-3.yaml").read_text()
    assert '"b200"' in values
    assert '"nvidia.com/gpu": "3"' in values
    assert "10.0.0.53/32" in (out / "kubernetes/network-policy.yaml").read_text()
    assert set(map(str, (path.relative_to(out) for path in out.rglob("*") if path.is_file()))) == set(
        render_all_files(parse_config(changed.read_text(), what="x"))
    )


def test_what_stands_in_the_way_is_told_at_once(config: Config, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    servers = ("127.0.0.53", "10.0.0.2", "9.9.9.9", "fe80::1%eth0")
    resolv.write_text("search lan\n" + "".join(f"nameserver {server}\n" for server in servers))
    told = [line for line in find_install_problems(config, resolv=resolv) if "resolver" in line]
    assert [line.split()[6].rstrip(":") for line in told] == ["10.0.0.2", "fe80::1%eth0"]


@pytest.mark.parametrize("verb", [("bogus",), ("drain", "7"), ("doctor", "--slot", "9")])
def test_a_wrong_request_is_one_line_and_exit_code_2(
    verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *verb) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_drain_status_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "var/lib/hub-runner/state").mkdir(parents=True)
    assert run(tmp_path, "drain", "1", "--wait", "--reason", "new card") == 0
    assert run(tmp_path, "status", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["drained"] for row in rows] == [False, True, False]
    page = tmp_path / "var/lib/hub-runner/state/slot-0.json"
    page.write_text('{"phase": "quarantined", "reason": "xid: gpu0 Xid 79"}')
    assert run(tmp_path, "status") == 3
    assert "Xid 79" in capsys.readouterr().out
    assert run(tmp_path, "resume") == 0
    assert run(tmp_path, "status", "--json") == 3
    assert [row["drained"] for row in json.loads(capsys.readouterr().out)] == [False, False, False]


def test_the_bootstrap_script_names_its_steps_and_its_mistakes(tmp_path: Path) -> None:
    script = EXAMPLE.with_name("install.sh")

    def sh(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True, check=False)

    told = sh("--config", str(EXAMPLE), "--root", str(tmp_path / "r"), "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "-m venv" in told.stdout
    assert "[runner]" in told.stdout
    assert not (tmp_path / "r").exists()
    for wrong in ((), ("--config", "/nonexistent"), ("--bogus",)):
        assert sh(*wrong).returncode == 2
