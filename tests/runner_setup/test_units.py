"""The rendered units, as systemd itself reads and scores them, and the scripts, as shellcheck does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hub_runner.render import render_host_files

if TYPE_CHECKING:
    from hub_runner.config import Config

REPOSITORY = Path(__file__).parents[2]
UNITS = "etc/systemd/system"
MOST_EXPOSED, MOST_EXPOSED_SLOT = 2.0, 2.6
"""The slots' own bound: a job cannot isolate code without namespaces, mount, pivot_root and capset."""
SCRIPTS = (".ci/packages", ".ci/run", "runner-setup/install.sh", "tests/runner_setup/boot.sh")
SHELLCHECK = Path(sys.executable).with_name("shellcheck")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="apt-get install systemd")


@pytest.fixture
def root(config: Config, tmp_path: Path) -> Path:
    """The host's files below a root of their own, with something executable where the units want a program."""
    for path, file in render_host_files(config).items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(file.text)
        place.chmod(file.mode)
    for program in ("opt/hub-runner/venv/bin/python", "usr/sbin/nft", "usr/sbin/apparmor_parser"):
        place = tmp_path / program
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    shutil.copytree("/lib/systemd/system", tmp_path / "lib/systemd/system", symlinks=True)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/systemd").symlink_to("../../lib/systemd")
    return tmp_path


def verify(root: Path) -> str:
    units = sorted(str(path.relative_to(root)) for path in (root / UNITS).glob("h*.*"))
    command = ["systemd-analyze", "verify", f"--root={root}", "--man=no", *(f"/{unit}" for unit in units)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr + ("" if answer.returncode == 0 else f"\nexit status {answer.returncode}")


@needs_systemd
def test_systemd_has_nothing_to_say_about_any_unit(root: Path) -> None:
    assert verify(root) == ""


@needs_systemd
@pytest.mark.parametrize(("right", "wrong"), [("MemoryMax=", "MemoryMaxx="), ("Type=exec", "Type=exek")])
def test_a_misspelt_unit_is_noticed(root: Path, right: str, wrong: str) -> None:
    unit = root / UNITS / "hub-runner-slot-0.service"
    assert right in unit.read_text()
    unit.write_text(unit.read_text().replace(right, wrong))
    assert "hub-runner-slot-0.service" in verify(root)


@needs_systemd
def test_no_service_is_exposed(root: Path) -> None:
    services = sorted((root / UNITS).glob("hub-runner-*.service"))
    assert len(services) == 14
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    for service in services:
        answer = subprocess.run([*command, str(service)], capture_output=True, text=True, check=False)
        level = re.search(r"Overall exposure level for \S+: ([\d.]+)", answer.stdout)
        assert level, answer.stderr
        bound = MOST_EXPOSED_SLOT if "-slot-" in service.name else MOST_EXPOSED
        assert float(level[1]) <= bound, f"{service.name} {level[1]}\n{answer.stdout}"


@needs_systemd
def test_the_unit_that_builds_container_images_is_valid_and_no_more_exposed_than_a_slot(
    config: Config, tmp_path: Path
) -> None:
    images = replace(config, environments=replace(config.environments, images=True))
    unit = tmp_path / "hub-runner-environments.service"
    unit.write_text(render_host_files(images)[f"{UNITS}/{unit.name}"].text)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", answer.stdout)
    assert level, answer.stderr
    assert "Unknown" not in answer.stderr
    assert float(level[1]) <= MOST_EXPOSED_SLOT, answer.stdout


def test_only_a_host_of_container_images_lets_their_unit_make_namespaces(config: Config) -> None:
    unit, users = f"{UNITS}/hub-runner-environments.service", "etc/tmpfiles.d/hub-runner.conf"
    images = replace(config, environments=replace(config.environments, images=True))
    for host, allowed in ((config, False), (images, True)):
        files = render_host_files(host)
        lines = files[unit].text.splitlines()
        for line in (
            "RestrictNamespaces=cgroup ipc mnt net pid user uts",  # all that bubblewrap makes; not time
            "SystemCallFilter=mount umount2 pivot_root capset sethostname",
            "AppArmorProfile=-hub-runner-slot",
        ):
            assert (line in lines) == allowed
        assert ("ProcSubset=pid" in lines) != allowed  # the sandbox's own limit is in /proc/sys
        assert ("d /var/lib/hub-runner/root-only 0700 root root -" in files[users].text) == allowed
        others = {path for path, file in files.items() if "RestrictNamespaces=cgroup" in file.text}
        assert others == ({unit} if allowed else set())
        for line in ("CapabilityBoundingSet=", "NoNewPrivileges=yes", "PrivateUsers=yes", "RestrictNamespaces=yes"):
            assert line in lines


IN_A_SANDBOX = """
set -e
mount --make-rprivate /
mkdir "$1/root-only"
mount -t tmpfs -o mode=0700 x "$1/root-only"
mkdir "$1/root-only/proc"
[ "$2" = masked ] || mount --bind /proc "$1/root-only/proc"
mount --bind -o ro /proc/sys /proc/sys
as_job="setpriv --reuid=60700 --regid=60700 --clear-groups"
$as_job ls "$1/root-only/proc" && exit 9
$as_job bwrap --unshare-all --ro-bind / / --proc /proc true
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can cover parts of /proc")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="apt-get install bubblewrap")
@pytest.mark.parametrize(("proc", "status"), [("masked", 1), ("beside", 0)])
def test_a_sandbox_needs_a_proc_that_nothing_covers(tmp_path: Path, proc: str, status: int) -> None:
    """Why a slot's unit keeps one, in a directory that no job can enter."""
    command = ["unshare", "--mount", "bash", "-c", IN_A_SANDBOX, "bash", str(tmp_path), proc]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert answer.returncode == status, answer.stderr
    assert "Permission denied" in answer.stderr  # of ls
    assert ("Can't mount proc" in answer.stderr) == (proc == "masked")


def test_every_slot_may_hold_a_sandbox(config: Config) -> None:
    files = render_host_files(config)
    for slot in config.resolved_slots:
        lines = files[f"{UNITS}/{slot.unit}"].text.splitlines()
        assert "SystemCallFilter=mount umount2 pivot_root capset sethostname" in lines
        assert "ReadWritePaths=/proc/sys/user" in lines
        assert [line for line in lines if line.startswith("ProtectHostname=")][-1] == "ProtectHostname=no"
        assert "AppArmorProfile=-hub-runner-slot" in lines
        assert [line for line in lines if line.startswith("RestrictNamespaces=")][-1] == "RestrictNamespaces=no"
    for path, file in files.items():
        if path.endswith(".service") and "-slot-" not in path:
            assert "RestrictNamespaces=yes" in file.text.splitlines(), path
    assert "profile hub-runner-slot flags=(unconfined) {\n    userns,\n}" in files["etc/hub-runner/apparmor-slot"].text


def test_a_slots_unit_opens_its_gpus_alone(config: Config) -> None:
    files = render_host_files(config)
    for index, gpus in ((0, {"0"}), (1, {"1", "2"}), (2, set())):
        text = files[f"{UNITS}/hub-runner-slot-{index}.service"].text
        assert set(re.findall(r"^DeviceAllow=/dev/nvidia(\d+) rw$", text, re.MULTILINE)) == gpus
        assert "\nDevicePolicy=closed\n" in text


def test_no_job_can_become_root_or_reach_docker(config: Config) -> None:
    for slot in config.resolved_slots:
        text = render_host_files(config)[f"{UNITS}/{slot.unit}"].text
        lines = text.splitlines()
        for line in ("NoNewPrivileges=yes", "CapabilityBoundingSet=", "KillMode=control-group", f"User={slot.user}"):
            assert line in lines
        assert "SupplementaryGroups=" in lines
        assert "-/run/docker.sock" in text
    assert "sudo" not in "".join(file.text for file in render_host_files(config).values())


def test_nothing_that_root_runs_looks_for_code_where_it_stands(config: Config) -> None:
    """`python -m` without -I would import what a job left in the working directory."""
    for path, file in render_host_files(config).items():
        for line in file.text.splitlines():
            assert "bin/python" not in line or "bin/python -I -m" in line, f"{path}: {line}"


def test_shellcheck_has_nothing_to_say_about_any_script(config: Config, tmp_path: Path) -> None:
    scripts = [REPOSITORY / name for name in SCRIPTS]
    for path, file in render_host_files(config).items():
        if file.text.startswith("#!"):
            scripts.append(tmp_path / Path(path).name)
            scripts[-1].write_text(file.text)
    assert len(scripts) == len(SCRIPTS) + 2
    answer = subprocess.run([str(SHELLCHECK), *map(str, scripts)], capture_output=True, text=True, check=False)
    assert answer.stdout + answer.stderr == ""


def test_every_script_of_the_repository_is_looked_at() -> None:
    scripts = {
        str(path.relative_to(REPOSITORY))
        for folder, pattern in ((".ci", "*"), ("runner-setup", "*.sh"), ("tests/runner_setup", "*.sh"))
        for path in (REPOSITORY / folder).rglob(pattern)
    }
    assert scripts == set(SCRIPTS)
