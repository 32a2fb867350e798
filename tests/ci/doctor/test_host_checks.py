"""Each fault of the host around the GPUs turns exactly its own check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.doctor import DoctorRequest, check_host
from ci.doctor.records import GIB, Clock, Disk, ProbeAnswer, RunnerInstall
from tests.ci.doctor.scenes import (
    NOW,
    Fault,
    assert_own_check_fails,
    by_name,
    state,
)

SLOT = DoctorRequest(only=(1, 2), strict=True)


FAULTS: dict[str, Fault] = {
    "disk full": ({}, {"disks": (Disk("/srv", GIB, 9 * GIB, 10**7),)}, "disk /srv", "fail", "1.0 of 9.0 GiB"),
    "inodes gone": ({}, {"disks": (Disk("/srv", 99 * GIB, 99 * GIB, 12),)}, "disk /srv", "fail", "12 inodes"),
    "disk broken": ({}, {"disks": (Disk("/srv", 0, 0, None, "I/O error"),)}, "disk /srv", "fail", "I/O error"),
    "clock behind": ({}, {"clock": Clock(NOW, True, -3600.0)}, "clock", "fail", "3600 s behind"),
    "clock unkept": ({}, {"clock": Clock(NOW, False)}, "clock", "warn", "not synchronised"),
    "runner unknown": ({}, {"runner": ProbeAnswer(False, "no manifest")}, "runner", "fail", "no manifest"),
    "store writable": ({}, {"store": ProbeAnswer(False, "/srv is writable")}, "store", "fail", "writable"),
    "hub away": ({}, {"hub": ProbeAnswer(False, "refused")}, "hub", "fail", "refused"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_its_own_check(fault: str) -> None:
    others = assert_own_check_fails(FAULTS[fault], replace(SLOT, only=()))
    assert others == {"ok"}


@pytest.mark.parametrize(
    ("version", "published", "status"),
    [
        ("2.336.0", "2026-11-17T00:00:00Z", "ok"),
        ("2.336.0", "2026-10-25T00:00:00Z", "warn"),
        ("2.336.0", "2026-10-18T00:00:00Z", "fail"),
        ("2.328.9", "2026-11-17T00:00:00Z", "fail"),
        ("2.336.0", "2027-01-01T00:00:00Z", "fail"),  # published in the future: one of the two clocks is wrong
        ("2.336.0", "yesterday", "fail"),
        ("2.336.0", "2026-11-17T00:00:00", "fail"),
    ],
)
def test_a_runner_is_fresh_for_less_than_thirty_days(version: str, published: str, status: str) -> None:
    seen = state(runner=RunnerInstall(version, published, "0" * 64))
    assert by_name(check_host(seen, SLOT))["runner"].status == status


@pytest.mark.parametrize(
    ("newest_at", "status"),
    [("2026-11-17T00:00:00Z", "ok"), ("2026-11-01T00:00:00Z", "fail"), ("", "fail"), ("x", "fail")],
)
def test_a_release_without_a_successor_does_not_age(newest_at: str, status: str) -> None:
    old = RunnerInstall("2.336.0", "2026-10-01T00:00:00Z", "0" * 64, newest_at)
    assert by_name(check_host(state(runner=old), SLOT))["runner"].status == status


def test_offline_on_purpose_is_fine() -> None:
    assert by_name(check_host(state(hub=None), DoctorRequest(offline=True)))["hub"].status == "ok"


@pytest.mark.parametrize(
    ("answer", "status"),
    [(None, "ok"), (ProbeAnswer(True, "answers"), "ok"), (ProbeAnswer(False, "refused"), "fail")],
)
def test_a_proxy_that_does_not_answer_fails(answer: ProbeAnswer | None, status: str) -> None:
    check = by_name(check_host(state(proxy=answer), DoctorRequest()))["proxy"]
    assert (check.status, bool(check.fix)) == (status, status == "fail")
