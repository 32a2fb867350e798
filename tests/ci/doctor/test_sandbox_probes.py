"""The probes of the sandbox and the tools: on this machine, and on recorded files of others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ci.doctor import sandbox_probes
from ci.doctor.records import ProbeAnswer
from ci.environments.base import MANIFEST, BaseManifest
from ci.records import to_json
from ci.subjects.sandbox import Isolation
from tests.ci.environments.conftest import DESCRIPTION

if TYPE_CHECKING:
    from pathlib import Path

# Of a container that docker started, and of Ubuntu 24.04 with the profile of apparmor-profiles.
MOUNTS = """\
620 526 0:48 / / rw,relatime master:1 - overlay overlay rw
621 620 0:53 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
640 621 0:53 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw
641 621 0:58 / /proc/acpi ro,relatime - tmpfs tmpfs ro
642 621 0:54 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw
643 620 0:59 / /sys ro,nosuid - sysfs sysfs ro
"""
PROFILE = """\
abi <abi/4.0>,
include <tunables/global>
profile bwrap /usr/bin/bwrap flags=(attach_disconnected,mediate_deleted) {
  allow file rwlkm /{**,},
  userns,
}
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name, text in {
        "sys/kernel/unprivileged_userns_clone": "0\n",
        "sys/user/max_user_namespaces": "15000\n",
        "sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
        "self/mountinfo": MOUNTS,
    }.items():
        path = tmp_path / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "proc"


def test_a_recorded_host_is_read(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_probes, "detect_isolation", lambda: Isolation(None, "cannot", as_root=False))
    profiles = tmp_path / "apparmor.d"
    profiles.mkdir()
    profiles.joinpath("aaa").write_text("profile firefox /usr/bin/firefox { userns, }\n")
    profiles.joinpath("bwrap-userns-restrict").write_text(PROFILE)
    seen = sandbox_probes.read_sandbox(proc, profiles)
    assert (seen.userns_clone, seen.max_user_namespaces, seen.apparmor_restricts) == (0, 15000, 1)
    assert seen.covered == ("/proc/bus", "/proc/acpi", "/proc/kcore")
    assert seen.apparmor_profile.endswith("bwrap-userns-restrict")
    assert seen.start == ProbeAnswer(False, "cannot")


def test_files_that_a_kernel_does_not_have_are_unknown(tmp_path: Path) -> None:
    seen = sandbox_probes.read_sandbox(tmp_path, tmp_path / "none")
    assert (seen.userns_clone, seen.max_user_namespaces, seen.apparmor_restricts) == (None, None, None)
    assert (seen.covered, seen.apparmor_profile) == ((), "")


def test_this_machine_answers() -> None:
    seen = sandbox_probes.read_sandbox()
    assert seen.start.text
    assert bool(seen.program) == bool(seen.version)
    assert seen.program or not seen.start.ok


def tool(directory: Path, name: str, script: str) -> None:
    directory.joinpath(name).write_text(f"#!/bin/sh\n{script}\n")
    directory.joinpath(name).chmod(0o755)


def test_tools_are_found_by_running_them(tmp_path: Path) -> None:
    tool(tmp_path, "git", "echo git version 2.47.3")
    tool(tmp_path, "cc", "exit 1")
    tool(tmp_path, "gcc", "echo 'gcc (Debian 14.2.0-19) 14.2.0'")
    tool(tmp_path, "my-cxx", "echo clang version 19.1.7")
    tool(tmp_path, "python3.13", "echo Python 3.13.5")
    tool(tmp_path, "python3.14", "echo nothing is installed here; exit 1")
    tool(tmp_path, "old", "echo Python 3.11.2")
    tool(tmp_path, "uv", "echo uv 0.9.2")
    tools = sandbox_probes.read_tools(str(tmp_path / "old"), {"PATH": str(tmp_path), "CXX": "my-cxx -O2"})
    assert (tools.git, tools.cc, tools.cxx) == ("git 2.47.3", "gcc 14.2.0", "my-cxx 19.1.7")
    assert (tools.python, tools.installer) == ("python3.13 3.13.5", "uv 0.9.2")
    assert not tools.headers.ok
    tool(tmp_path, "skopeo", "echo skopeo version 1.9.3")
    assert sandbox_probes.read_tools(None, {"PATH": str(tmp_path)}).image_programs == ""
    tool(tmp_path, "umoci", "echo umoci version 0.4.7")
    found = sandbox_probes.read_tools(None, {"PATH": str(tmp_path)}).image_programs
    assert found == "skopeo 1.9.3, umoci 0.4.7"


def test_a_bare_host_has_none(tmp_path: Path) -> None:
    tools = sandbox_probes.read_tools("/nonexistent/python", {"PATH": str(tmp_path)})
    assert (tools.git, tools.cc, tools.cxx, tools.python) == ("", "", "", "")
    assert tools.headers == ProbeAnswer(False, "/nonexistent/python: No such file or directory")


def test_headers_belong_to_the_interpreter(tmp_path: Path) -> None:
    assert sandbox_probes.read_headers(sys.executable).text.startswith("Python 3.")
    include = tmp_path / "include"
    include.mkdir()
    tool(tmp_path, "python", f"echo 3.12 {include}")
    assert sandbox_probes.read_headers(str(tmp_path / "python")).text == f"Python 3.12: no {include}/Python.h"
    include.joinpath("Python.h").touch()
    assert sandbox_probes.read_headers(str(tmp_path / "python")) == ProbeAnswer(True, "Python 3.12")


def test_the_headers_are_those_of_each_base_environments_interpreter(tmp_path: Path) -> None:
    """Not those of hub-tests' own interpreter: the subject is built with the base's."""
    environ = {"PATH": "/nowhere", "HUB_TESTS_SHARED_ENVIRONMENTS": str(tmp_path), "HUB_TESTS_CACHE": str(tmp_path)}
    assert sandbox_probes.find_base_pythons(environ) == ()
    python = tmp_path / "standin-0123/bin/python"
    python.parent.mkdir(parents=True)
    manifest = BaseManifest(DESCRIPTION, DESCRIPTION.digest, "3.12", {}, "", 0.0, "")
    (tmp_path / "standin-0123" / MANIFEST).write_text(to_json(manifest))
    python.write_text("#!/bin/sh\necho 3.12 /nowhere/include\n")
    python.chmod(0o755)
    assert sandbox_probes.find_base_pythons(environ) == (str(python),)
    assert sandbox_probes.read_tools(None, environ).headers.text == "Python 3.12: no /nowhere/include/Python.h"


def test_uvs_interpreter_counts_where_the_machine_has_none(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    python = tmp_path / "managed"
    python.write_text("#!/bin/sh\necho Python 3.12.9\n")
    for script, text in (
        (uv, f'#!/bin/sh\ncase "$1" in python) echo {python} ;; *) echo uv 0.9.9 ;; esac\n'),
        (python, ""),
    ):
        script.write_text(text or python.read_text())
        script.chmod(0o755)
    assert sandbox_probes._find_managed_python({"PATH": str(tmp_path)}) == "uv's 3.12.9"
    uv.write_text("#!/bin/sh\nexit 2\n")
    assert sandbox_probes._find_managed_python({"PATH": str(tmp_path)}).startswith("none here; uv brings >=3.12")
