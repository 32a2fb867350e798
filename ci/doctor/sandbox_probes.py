"""The probes of the sandbox and of the tools that build a subject. No probe raises."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci.chat_templates.engines import describe_second_engine
from ci.doctor.host_checks import parse_version
from ci.doctor.probes import run_command
from ci.doctor.records import BuildTools, ProbeAnswer, SandboxState
from ci.environments.image import PROGRAMS
from ci.environments.installer import UvInstaller, find_installer
from ci.errors import HubTestsError
from ci.settings import from_environ
from ci.subjects.sandbox import detect_isolation, find_bubblewrap

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 20
MIN_PYTHON = (3, 12)
PYTHONS = ("python3.14", "python3.13", "python3.12", "python3")
PROFILE = re.compile(r"^\s*(?:profile|/).*bwrap", re.MULTILINE)
PERMISSION = re.compile(r"^\s*userns", re.MULTILINE)
NUMBERS = {
    "userns_clone": "kernel/unprivileged_userns_clone",
    "max_user_namespaces": "user/max_user_namespaces",
    "apparmor_restricts": "kernel/apparmor_restrict_unprivileged_userns",
}
"""Files of /proc/sys: the first is Debian's, the last is Ubuntu's."""


def read_sandbox(proc: Path = Path("/proc"), profiles: Path = Path("/etc/apparmor.d")) -> SandboxState:
    """Try a sandbox, and read what the kernel permits."""
    program = find_bubblewrap()
    isolation = detect_isolation()
    return SandboxState(
        as_root=os.geteuid() == 0,
        program=str(program or ""),
        version=_read_version([str(program), "--version"]) if program else "",
        start=ProbeAnswer(isolation.applied, isolation.description),
        apparmor_profile=find_profile(profiles),
        covered=find_covered(proc / "self/mountinfo"),
        **{name: _read_number(proc / "sys" / path) for name, path in NUMBERS.items()},
    )


def find_profile(directory: Path) -> str:
    """Find the AppArmor profile that lets bubblewrap make user namespaces; "" without one."""
    for path in sorted(directory.glob("*")):
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace") if path.is_file() else ""
            if re.search(r"^\s*(?:profile|/).*bwrap", text, re.MULTILINE) and re.search(
                r"^\s*userns", text, re.MULTILINE
            ):
                return str(path)
    return ""


def find_covered(mountinfo: Path) -> tuple[str, ...]:
    """List the mounts over parts of /proc, as a container runtime makes them.

    The kernel mounts no new /proc in a user namespace that would uncover them (proc(5), mount_namespaces(7)).
    """
    try:
        places = [line.split()[4] for line in mountinfo.read_text().splitlines() if len(line.split()) > 4]
    except OSError:
        return ()
    return tuple(dict.fromkeys(place for place in places if place.startswith("/proc/")))


def read_tools(python: str | None, environ: Mapping[str, str]) -> BuildTools:
    """Find what installs a subject: git, compilers, headers, a new interpreter, and uv."""
    path = environ.get("PATH")
    engine, absent = describe_second_engine(environ)
    found = _find_new_python((python or sys.executable, *PYTHONS), path)
    return BuildTools(
        git=find_tool(("git",), path),
        cc=find_tool((*environ.get("CC", "").split()[:1], "cc", "gcc", "clang"), path),
        cxx=find_tool((*environ.get("CXX", "").split()[:1], "c++", "g++", "clang++"), path),
        headers=_read_all_headers((python,) if python else find_base_pythons(environ) or (sys.executable,)),
        python=found,
        installer=_describe_installer(environ),
        managed_python="" if found else _find_managed_python(environ),
        image_programs=_find_image_programs(path),
        template_engine=" with ".join(filter(None, [engine, find_tool(("node",), path)])) if engine else "",
        no_template_engine=absent,
    )


def find_base_pythons(environ: Mapping[str, str]) -> tuple[str, ...]:
    """List the interpreters of the base environments on this machine."""
    from ci.environments.base import list_bases  # brings pydantic, which a bare host's doctor does without

    try:
        roots = from_environ(environ).environment_roots
        return tuple(str(base.python) for root in roots for base in list_bases(root) if not base.manifest.image_digest)
    except (HubTestsError, OSError):
        return ()


def _read_all_headers(pythons: tuple[str, ...]) -> ProbeAnswer:
    """Ask each interpreter for its headers; the first that has none is the answer."""
    answers = [read_headers(python) for python in pythons]
    return next((answer for answer in answers if not answer.ok), answers[0])


def _find_managed_python(environ: Mapping[str, str]) -> str:
    """Return the interpreter that uv has, or could bring; "" without uv."""
    try:
        installer = find_installer(environ)
        if not isinstance(installer, UvInstaller):
            return ""
        wanted = f">={MIN_PYTHON[0]}.{MIN_PYTHON[1]}"
        found = run_command([str(installer.program), "python", "find", "--offline", wanted], timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    if found.returncode == 0 and (version := _read_version([found.stdout.strip(), "--version"])):
        return f"uv's {version}"
    return f"none here; uv brings {wanted} with the first environment (needs the network)"


def read_headers(python: str) -> ProbeAnswer:
    """Ask the interpreter where its C headers are, and look for Python.h."""
    script = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sysconfig.get_path('include'))"
    try:
        done = run_command([python, "-I", "-c", script], timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as failure:
        return ProbeAnswer(False, f"{python}: {getattr(failure, 'strerror', '') or failure}")
    version, _, include = done.stdout.strip().partition(" ")
    if done.returncode or not include:
        return ProbeAnswer(False, f"{python} does not answer")
    exists = Path(include, "Python.h").is_file()
    return ProbeAnswer(exists, f"Python {version}" if exists else f"Python {version}: no {include}/Python.h")


def find_tool(names: tuple[str, ...], path: str | None) -> str:
    """Return the name and version of the first tool that runs; "" for none."""
    for name in names:
        if (program := shutil.which(name, path=path)) and (version := _read_version([program, "--version"])):
            return f"{Path(name).name} {version}"
    return ""


def _find_image_programs(path: str | None) -> str:
    """Return the programs that bring container images, with their versions; "" where one is missing."""
    found = [find_tool((name,), path) for name in PROGRAMS]
    return ", ".join(found) if all(found) else ""


def _find_new_python(names: tuple[str, ...], path: str | None) -> str:
    """Return the first interpreter of at least `MIN_PYTHON`.

    Each is asked itself, since a launcher may have none behind it.
    """
    for name in names:
        version = _read_version([program, "--version"]) if (program := shutil.which(name, path=path)) else ""
        if parse_version(version)[:2] >= MIN_PYTHON:
            return f"{Path(name).name} {version}"
    return ""


def _read_version(command: list[str]) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        version = re.search(r"\d+(?:\.\d+)+", run_command(command, timeout=SECONDS).stdout)
        return version[0] if version else ""
    return ""


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _describe_installer(environ: Mapping[str, str]) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return find_installer(environ).description
    return ""
