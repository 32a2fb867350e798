"""The checks of the host around the GPUs: disks, clock, runner, store, Hub. Pure functions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ci.doctor.records import GIB, Check, ProbeAnswer, RunnerInstall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.doctor.records import Clock, Disk, DoctorRequest, HostState

MAX_SKEW = 30.0
"""Seconds. GitHub refuses the token of an App if the clock is a minute ahead."""

RUNNER_MAX_AGE = 30
RUNNER_WARN_AGE = 23
RUNNER_NEWEST_DAYS = 3
RUNNER_MINIMUM = (2, 329, 0)
"""GitHub gives jobs to a release for 30 days after its publication, and longer while it is the newest. It registers no
version older than the minimum: https://github.blog/changelog/ (self-hosted runner minimum version enforcement)."""

OLDEST_CLOCK = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def check_surroundings(state: HostState, request: DoctorRequest) -> Iterator[Check]:
    """Make each check of the host around its GPUs."""
    for disk in state.disks:
        yield _check_disk(disk, request)
    yield _check_clock(state.clock)
    yield _check_runner(state.runner, state.clock.now)
    yield _check_answer(
        "store", state.store, "readable, not writable by the job's user", "chown root, chmod u=rwX,go=rX"
    )
    yield _check_proxy(state.proxy)
    yield _check_hub(state.hub, request)


def _check_disk(disk: Disk, request: DoctorRequest) -> Check:
    name, expected = f"disk {disk.path}", f">= {request.min_free / GIB:g} GiB, {request.min_free_inodes} inodes"
    if disk.problem:
        return Check(name, "fail", disk.problem, expected, "check that it is mounted")
    value = f"{disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free"
    if disk.free < request.min_free:
        return Check(name, "fail", value, expected, "run the janitor, or give it a larger disk")
    if disk.inodes is not None and disk.inodes < request.min_free_inodes:
        return Check(
            name, "fail", f"{disk.inodes} inodes free", expected, "run the janitor: there are many small files"
        )
    return Check(name, "ok", value, expected)


def _check_clock(clock: Clock) -> Check:
    now = datetime.fromtimestamp(clock.now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    expected, fix = f"set by a time service, within {MAX_SKEW:g} s", "timedatectl set-ntp true"
    if clock.now < OLDEST_CLOCK:
        return Check("clock", "fail", f"{now} is in the past", expected, fix)
    if clock.skew is not None and abs(clock.skew) > MAX_SKEW:
        side = "ahead of" if clock.skew > 0 else "behind"
        return Check("clock", "fail", f"{now}, {abs(clock.skew):.0f} s {side} the Hub's", expected, fix)
    if clock.synchronised is False:
        return Check("clock", "warn", f"{now}, not synchronised", expected, fix)
    return Check("clock", "ok", now, expected)


def _check_runner(runner: RunnerInstall | ProbeAnswer | None, now: float) -> Check:
    expected, fix = f"< {RUNNER_MAX_AGE} days old", "hub-runner update"
    if runner is None:
        return Check("runner", "skip", "no runner directory was given", expected)
    if isinstance(runner, ProbeAnswer):
        return Check("runner", "fail", runner.text, expected, fix)
    try:
        age = days_since(runner.published_at, now)
        newest = bool(runner.newest_at) and -1 <= days_since(runner.newest_at, now) <= RUNNER_NEWEST_DAYS
    except ValueError as wrong:
        return Check("runner", "fail", f"{runner.version}: {wrong} is not a time", expected, fix)
    value = f"{runner.version}, {age:.0f} days old" + (", the newest" if newest else "")
    if parse_version(runner.version) < RUNNER_MINIMUM or age < -1 or (age >= RUNNER_MAX_AGE and not newest):
        return Check("runner", "fail", value, expected, fix)
    return Check("runner", "warn" if age >= RUNNER_WARN_AGE and not newest else "ok", value, expected, fix)


def days_since(time: str, now: float) -> float:
    """Return the days from an ISO 8601 time to `now`.

    Raises ValueError if it is not a time, or has no zone.
    """
    moment = datetime.fromisoformat(time)
    if moment.tzinfo is None:
        raise ValueError(time)
    return (now - moment.timestamp()) / 86400


def _check_answer(name: str, answer: ProbeAnswer | None, expected: str, fix: str) -> Check:
    if answer is None:
        return Check(name, "skip", "none was given", expected)
    if answer.ok is None:
        return Check(name, "skip", answer.text, expected, unmade=True)
    return Check(name, "ok" if answer.ok else "fail", answer.text, expected, "" if answer.ok else fix)


def _check_proxy(answer: ProbeAnswer | None) -> Check:
    expected = "none set, or one that answers"
    if answer is None:
        return Check("proxy", "ok", "none is set", expected)
    fix = "correct HTTPS_PROXY, or on a runner host the table [proxy] of hub-runner.toml"
    return _check_answer("proxy", answer, expected, fix)


def _check_hub(answer: ProbeAnswer | None, request: DoctorRequest) -> Check:
    if request.offline:
        return Check("hub", "ok", "offline on purpose (HF_HUB_OFFLINE)", "reachable, or offline on purpose")
    fix = f"allow connections to {request.endpoint}, or set HF_HUB_OFFLINE=1 if another host fills the store"
    return _check_answer("hub", answer, "reachable, or offline on purpose", fix)


def parse_version(version: str) -> tuple[int, ...]:
    """Parse a dotted version into numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
