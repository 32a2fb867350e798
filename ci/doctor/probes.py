"""What the doctor reads besides NVML: kernel log, PCI bus, disks, clock, runner, store, Hub. None of these raises."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from ci.doctor.records import RUNNER_MANIFEST, Answer, Clock, Disk, KernelLog, Operation, RunnerInstall, Xid
from ci.errors import HubTestsError
from ci.records import read_json

XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<pci>[0-9a-fA-F:.]+)\): (?P<code>\d+)(?:,\s*(?P<text>.*))?")
"""https://docs.nvidia.com/deploy/xid-errors/"""

STA_UNSYNC = 0x0040
NVIDIA, DISPLAY = "0x10de", "0x03"
PROBE = Path(__file__).with_name("cuda_probe.py")
HTTP_TIMEOUT = 5.0


def read_kernel_log() -> KernelLog:
    """Xid reports since boot: from the journal, which keeps all of them, else from the kernel's ring buffer."""
    if journalctl := shutil.which("journalctl"):
        answer = run([journalctl, "--dmesg", "--boot", "--output=cat", "--no-pager", "--quiet"], timeout=60)
        if answer.returncode == 0 and answer.stdout:
            return KernelLog(find_xids(answer.stdout), source="journal")
    try:
        return KernelLog(find_xids(_ring_buffer()), source="/dev/kmsg")
    except OSError as failure:
        return KernelLog(problem=f"the kernel log is not readable ({failure.strerror}): run as root")


def find_xids(log: str) -> tuple[Xid, ...]:
    """The Xid reports in kernel log text, in order."""
    return tuple(Xid(int(m["code"]), m["pci"], (m["text"] or "").strip()) for m in XID.finditer(log))


def _ring_buffer() -> str:
    """/dev/kmsg as text; one read is one record, and a record that was overwritten meanwhile answers EPIPE."""
    records: list[bytes] = []
    descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            with contextlib.suppress(BrokenPipeError):
                records.append(os.read(descriptor, 1 << 16))
    except BlockingIOError:
        return b"\n".join(records).decode(errors="replace")
    finally:
        os.close(descriptor)


def read_pci(root: Path = Path("/sys/bus/pci/devices")) -> tuple[str, ...]:
    """Addresses of NVIDIA display controllers on the PCI bus, whether or not the driver can talk to them."""
    found = []
    for device in sorted(root.glob("*")):
        with contextlib.suppress(OSError):
            vendor, kind = (device.joinpath(name).read_text().strip() for name in ("vendor", "class"))
            if vendor == NVIDIA and kind.startswith(DISPLAY):
                found.append(device.name)
    return tuple(found)


def run_operation(which: str, uuids: tuple[str, ...], *, python: str | None, timeout: float) -> Operation:
    """The tiny computation, `which` being driver or torch, in a process of its own with a time limit."""
    try:
        answer = run([python or sys.executable, "-I", str(PROBE), which, *uuids], timeout=timeout)
    except subprocess.TimeoutExpired:
        return Operation(problem=f"no answer in {timeout:g} s: the GPU or its driver hangs")
    except OSError as failure:
        return Operation(problem=f"{python}: {failure.strerror}")
    try:
        return Operation(**json.loads(answer.stdout))
    except (ValueError, TypeError):
        last = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        return Operation(problem=f"the probe died with exit status {answer.returncode}: {last[:200]}")


def read_disk(path: str) -> Disk:
    """Room on the file system of `path`, or of its nearest parent that exists."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        room = os.statvfs(place)
    except OSError as failure:
        return Disk(path, 0, 0, None, problem=failure.strerror or str(failure))
    inodes = room.f_favail if room.f_files else None
    return Disk(path, room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, inodes)


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def read_clock(skew: float | None) -> Clock:
    """The time, and adjtimex(2)'s word on whether a time service keeps it; `skew` as a server told it."""
    state = _Timex()
    try:
        returned = ctypes.CDLL(None).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return Clock(time.time(), None, skew)
    return Clock(time.time(), None if returned < 0 else not state.status & STA_UNSYNC, skew)


def read_runner(directory: str) -> RunnerInstall | Answer:
    """What is known about the unpacked runner in `directory`."""
    try:
        text = Path(directory, RUNNER_MANIFEST).read_bytes()
        return read_json(RunnerInstall, text, what=RUNNER_MANIFEST)
    except OSError as failure:
        return Answer(False, f"{directory}/{RUNNER_MANIFEST}: {failure.strerror}")
    except HubTestsError as failure:
        return Answer(False, str(failure))


def read_store(store: str, job_user: str | None) -> Answer:
    """Can the job's user read all of the store and write none of it? find(1), run as that user, asks the kernel."""
    if not Path(store).is_dir():
        return Answer(False, f"{store} is not a directory")
    if job_user is None or os.geteuid() != 0:
        reason = "no job user was named" if job_user is None else f"only root can look with {job_user}'s eyes"
        return Answer(None, f"{store}: {reason}")
    test = ["find", store, "!", "-type", "l", "(", "-writable", "-o", "!", "-readable", ")", "-print", "-quit"]
    try:
        answer = run(test, timeout=60, user=job_user)
    except (OSError, subprocess.SubprocessError, KeyError, ValueError) as failure:
        return Answer(None, f"{store}: could not look as {job_user}: {failure}")
    found = answer.stdout.strip() or answer.stderr.strip().splitlines()[:1]
    if found:
        return Answer(
            False, f"{found if isinstance(found, str) else found[0]} is writable by {job_user}, or unreadable"
        )
    return Answer(True, f"{store}: readable by {job_user}, not writable")


def read_hub(endpoint: str) -> tuple[Answer, float | None]:
    """Does the Hub answer, and how many seconds is our clock ahead of its `Date`? Any HTTP answer is an answer."""
    started = time.monotonic()
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  the endpoint is the operator's choice
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT) as response:  # noqa: S310
            date = response.headers["Date"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            date = refusal.headers["Date"]
    except (OSError, ValueError) as failure:
        return Answer(False, f"{endpoint}: {getattr(failure, 'reason', failure)}"), None
    took = time.monotonic() - started
    return Answer(True, f"{endpoint} answered in {took * 1000:.0f} ms"), _ahead(date)


def _ahead(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except (TypeError, ValueError):
        return None


def run(command: list[str], *, timeout: float, user: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end or to the time limit. A process stuck in the kernel cannot be killed, and is left behind.

    Raises subprocess.TimeoutExpired, OSError.
    """
    extra: dict[str, Any] = {} if user is None else _as(user)
    process = subprocess.Popen(  # noqa: S603  the commands are ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        **extra,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _as(user: str) -> dict[str, Any]:
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups, "cwd": "/"}
