"""The whole installation into an empty root, and the drift of what is installed from the one file."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hub_runner.__main__ import main
from hub_runner.config import AllowedConnection, ProxySettings
from hub_runner.config_file import parse_config
from hub_runner.install import TOOLS, find_install_problems, list_commands, list_retired_units, write_files
from hub_runner.layout import Layout
from tests.runner_setup.conftest import EXAMPLE

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


def test_what_stands_in_the_way_is_told_at_once(config: Config, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    servers = ("127.0.0.53", "10.0.0.2", "9.9.9.9", "fe80::1%eth0")
    resolv.write_text("search lan\n" + "".join(f"nameserver {server}\n" for server in servers))
    told = [line for line in find_install_problems(config, resolv=resolv) if "resolver" in line]
    assert [line.split()[6].rstrip(":") for line in told] == ["10.0.0.2", "fe80::1%eth0"]


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


def test_units_of_an_earlier_version_are_stopped_and_deleted(
    config: Config, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    units = layout.root / "etc/systemd/system"
    (units / "sockets.target.wants").mkdir(parents=True)
    for name in ("hub-runner-mint.socket", "hub-runner-mint@.service", "hub-runner-slot-9.service"):
        (units / name).write_text("[Unit]\n")
    link = units / "sockets.target.wants/hub-runner-mint.socket"
    link.symlink_to("../hub-runner-mint.socket")
    retired = list_retired_units(config, layout)
    assert retired == ("hub-runner-mint.socket",)  # a job may run on slot 9
    write_files(config, EXAMPLE, layout)
    assert not link.is_symlink()
    assert not list(units.glob("*mint*"))
    assert ("systemctl", "stop", *retired) in dict(list_commands(Layout(), retired)).values()
    assert ("systemctl", "stop", *retired) not in dict(list_commands(layout, retired)).values()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://10.0.0.8:3128", "jobs could not reach the proxy 10.0.0.8"),
        ("http://10.0.0.9:3128", ""),  # allowed below
        ("http://10.0.0.9", "with port 80"),
        ("http://9.9.9.9:3128", ""),
        ("http://proxy.example.org:3128", ""),
        ("http://[fd00::8]:3128", "jobs could not reach the proxy fd00::8"),
        ("", ""),
    ],
)
def test_a_proxy_that_the_firewall_closes_is_told(config: Config, url: str, problem: str) -> None:
    allow = (AllowedConnection("10.0.0.9", 3128, "proxy"),)
    host = replace(config, proxy=ProxySettings(url), egress=replace(config.egress, allow=allow))
    told = [line for line in find_install_problems(host) if "proxy" in line]
    assert len(told) == bool(problem)
    assert problem in "".join(told)


def test_install_sh_brings_what_the_doctor_and_the_installation_ask_for() -> None:
    """Package names of Debian and Ubuntu; each command of TOOLS comes with one of them or is essential."""
    script = EXAMPLE.with_name("install.sh").read_text()
    packages = set(script.partition('packages="')[2].partition('"')[0].split())
    assert {"git", "gcc", "g++", "python3-dev", "python3-venv", "bubblewrap", "nodejs", "npm"} <= packages
    essential = {"mount", "umount", "find", "cp"}  # of mount, findutils and coreutils
    brought = {"systemctl": "systemd", "nft": "nftables", "mkfs.ext4": "e2fsprogs", "bwrap": "bubblewrap"}
    assert {brought.get(tool, tool) for tool in set(TOOLS) - essential} <= packages


@pytest.mark.parametrize("images", [False, True])
def test_what_brings_container_images_is_installed_where_the_file_says_so(tmp_path: Path, *, images: bool) -> None:
    text = EXAMPLE.read_text()
    assert "# images = true" in text
    host = tmp_path / "host.toml"
    host.write_text(text.replace("# images = true", "images = true") if images else text)
    words = ["sh", str(EXAMPLE.with_name("install.sh")), "--config", str(host), "--dry-run"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert ("+ apt-get install --yes --no-install-recommends skopeo umoci\n" in told) == images


def test_a_host_of_container_images_needs_what_brings_them(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("skopeo", "umoci") else found(name))
    assert not any("umoci" in line for line in find_install_problems(config))
    images = replace(config, environments=replace(config.environments, images=True))
    (line,) = (line for line in find_install_problems(images) if "missing commands" in line)
    assert "skopeo, umoci; run install.sh" in line


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="apt-get install bubblewrap")
def test_on_a_host_without_python_the_packages_are_installed_first() -> None:
    """A minimal Debian has none: it was told that its Python is too old."""
    bare = [
        "bwrap",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--ro-bind",
        "/dev/null",
        os.path.realpath("/usr/bin/python3"),
    ]
    words = ["/bin/sh", str(EXAMPLE.with_name("install.sh")), "--config", str(EXAMPLE), "--dry-run"]
    done = subprocess.run([*bare, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    steps = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert steps[:3] == [["apt-get", "update"], ["apt-get", "install"], ["/usr/bin/python3", "-m"]]
