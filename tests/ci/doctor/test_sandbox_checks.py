"""Each fault of the sandbox or of the build tools turns exactly its own check, and names the fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.chat_templates.engines import NO_NODE
from ci.doctor import DoctorRequest, check_host, diagnose
from ci.doctor.records import ProbeAnswer
from tests.ci.doctor.scenes import SANDBOX, TOOLS, by_name, state

REFUSED = ProbeAnswer(False, "bubblewrap cannot make a sandbox here: bwrap: setting up uid map: Permission denied")

SANDBOX_FAULTS: dict[str, tuple[dict[str, Any], set[str], str, str]] = {
    "no bubblewrap": (
        {"program": "", "version": "", "start": ProbeAnswer(False, "bubblewrap is not installed (package bubblewrap)")},
        {"bubblewrap", "sandbox"},
        "not installed",
        "apt install bubblewrap",
    ),
    "old bubblewrap": ({"version": "0.6.1"}, {"bubblewrap"}, "0.6.1", "apt install bubblewrap"),
    "no start": ({"start": REFUSED}, {"sandbox"}, "Permission denied", "not isolated"),
    "Debian's switch": (
        {"start": REFUSED, "userns_clone": 0},
        {"sandbox", "user namespaces"},
        "kernel.unprivileged_userns_clone = 0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "none allowed": (
        {"start": REFUSED, "max_user_namespaces": 0},
        {"sandbox", "user namespaces"},
        "user.max_user_namespaces = 0",
        "sysctl -w user.max_user_namespaces",
    ),
    "kernel without": (
        {"start": REFUSED, "max_user_namespaces": None},
        {"sandbox", "user namespaces"},
        "the kernel has none",
        "CONFIG_USER_NS",
    ),
    "Ubuntu's apparmor": (
        {"start": REFUSED, "apparmor_restricts": 1},
        {"sandbox", "apparmor"},
        "no profile for bwrap",
        "apparmor-profiles",
    ),
    "covered /proc": (
        {"start": REFUSED, "covered": ("/proc/acpi", "/proc/kcore")},
        {"sandbox", "/proc"},
        "covered by /proc/acpi, /proc/kcore",
        "procMount: Unmasked",
    ),
}
TOOL_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no git": ({"git": ""}, "git", "apt install git"),
    "no C": ({"cc": ""}, "C compiler", "apt install gcc"),
    "no C++": ({"cxx": ""}, "C++ compiler", "apt install g++"),
    "no headers": (
        {"headers": ProbeAnswer(False, "Python 3.12: no /usr/include/python3.12/Python.h")},
        "python headers",
        "apt install python3.12-dev",
    ),
    "no such python": ({"headers": ProbeAnswer(False, "/x/python: not found")}, "python headers", "python3-dev"),
    "old python": ({"python": ""}, "python >= 3.12", "python3.12"),
    "pip only": ({"installer": "pip 25.0"}, "uv", "pip install uv"),
}


@pytest.mark.parametrize("fault", SANDBOX_FAULTS)
def test_a_fault_of_the_sandbox_turns_its_own_checks(fault: str) -> None:
    changes, names, text, fix = SANDBOX_FAULTS[fault]
    checks = check_host(state(sandbox=replace(SANDBOX, **changes)), DoctorRequest())
    wrong = {check.name: check for check in checks if check.status != "ok"}
    assert set(wrong) == names
    assert {check.status for check in wrong.values()} == {"warn"}
    assert any(text in check.value and fix in check.fix for check in wrong.values())
    assert not any("\n" in check.fix for check in wrong.values())


@pytest.mark.parametrize("fault", TOOL_FAULTS)
def test_a_missing_tool_turns_its_own_check(fault: str) -> None:
    changes, name, fix = TOOL_FAULTS[fault]
    checks = check_host(state(tools=replace(TOOLS, **changes)), DoctorRequest())
    (wrong,) = (check for check in checks if check.status != "ok")
    assert (wrong.name, wrong.status) == (name, "warn")
    assert fix in wrong.fix


@pytest.mark.parametrize(
    ("request_", "fit"),
    [
        (DoctorRequest(), True),
        (DoctorRequest(strict=True), False),
        (DoctorRequest(isolation="required"), False),
    ],
)
def test_a_sandbox_that_does_not_start_fails_where_it_is_required(request_: DoctorRequest, fit: bool) -> None:
    assert diagnose(state(sandbox=replace(SANDBOX, start=REFUSED)), request_).fit == fit


def test_missing_tools_fail_only_if_strict() -> None:
    without = state(tools=replace(TOOLS, git=""))
    assert diagnose(without, DoctorRequest(isolation="required")).fit
    assert not diagnose(without, DoctorRequest(strict=True)).fit


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (DoctorRequest(), "skip"),
        (DoctorRequest(strict=True), "skip"),
        (DoctorRequest(images=True), "warn"),
        (DoctorRequest(images=True, strict=True), "fail"),
    ],
)
def test_what_brings_container_images_is_needed_where_they_are_built(request_: DoctorRequest, status: str) -> None:
    name = "container images"
    check = by_name(check_host(state(tools=replace(TOOLS, image_programs="")), request_))[name]
    assert check.status == status
    assert check.fix.startswith("apt install skopeo umoci") == request_.images
    assert by_name(check_host(state(), request_))[name].status == "ok"


def test_root_needs_no_user_namespace() -> None:
    changes: dict[str, Any] = {"as_root": True, "userns_clone": 0, "apparmor_restricts": 1, "covered": ("/proc/acpi",)}
    checks = by_name(check_host(state(sandbox=replace(SANDBOX, **changes)), DoctorRequest()))
    assert {checks[name].status for name in ("sandbox", "user namespaces", "apparmor", "/proc")} == {"ok"}


def test_a_profile_or_a_sandbox_that_starts_settles_apparmor() -> None:
    settled: tuple[dict[str, Any], ...] = ({"apparmor_profile": "/etc/apparmor.d/bwrap", "start": REFUSED}, {})
    for changes in settled:
        seen = state(sandbox=replace(SANDBOX, apparmor_restricts=1, **changes))
        assert by_name(check_host(seen, DoctorRequest()))["apparmor"].status == "ok"


def test_what_was_not_asked_for_is_not_checked() -> None:
    names = {check.name for check in check_host(state(sandbox=None, tools=None), DoctorRequest(strict=True))}
    assert not names & {"bubblewrap", "sandbox", "apparmor", "git", "uv"}


def test_an_interpreter_that_uv_brings_is_enough() -> None:
    checks = by_name(check_host(state(tools=replace(TOOLS, python="", managed_python="uv's 3.12.1")), DoctorRequest()))
    assert (checks["python >= 3.12"].status, checks["python >= 3.12"].value) == ("ok", "uv's 3.12.1")


@pytest.mark.parametrize(
    ("absent", "fix"),
    [
        (NO_NODE, "apt install nodejs npm; npm ci --prefix ci/chat_templates"),
        ("`npm ci` was not run", "npm ci --prefix"),
    ],
)
def test_a_missing_second_engine_of_chat_templates_warns_and_takes_no_machine_out(absent: str, fix: str) -> None:
    tools = replace(TOOLS, template_engine="", no_template_engine=absent)
    check = by_name(check_host(state(tools=tools), DoctorRequest(strict=True)))["chat templates"]
    assert (check.status, check.value) == ("warn", absent)
    assert check.fix.startswith(fix)
    assert "HUB_TESTS_NODE_MODULES" in check.fix
    assert by_name(check_host(state(tools=TOOLS), DoctorRequest()))["chat templates"].status == "ok"
