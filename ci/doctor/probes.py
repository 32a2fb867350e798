"""The probes besides NVML: kernel log, PCI bus, disks, clock, runner, store, Hub. Only `run_command` raises."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ci.doctor.records import RUNNER_MANIFEST, Clock, Disk, GpuComputation, KernelLog, ProbeAnswer, RunnerInstall, Xid
from ci.errors import HubTestsError
from ci.records import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<pci>[0-9a-fA-F:.]+)\): (?P<code>\d+)(?:,\s*(?P<text>.*))?")
"""https://docs.nvidia.com/deploy/xid-errors/"""

STA_UNSYNC = 0x0040
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
PROBE = Path(__file__).with_name("cuda_probe.py")
HTTP_TIMEOUT = 5.0
COMMAND_TIMEOUT = 60
"""Seconds."""


def read_kernel_log() -> KernelLog:
    """Read the Xid reports since boot from the journal, else from the kernel's ring buffer.

    The journal keeps all of them, the ring buffer only the newest.
    """
    if journal := _read_journal():
        return KernelLog(find_xids(journal), source="journal")
    try:
        return KernelLog(find_xids(_read_ring_buffer()), source="/dev/kmsg")
    except OSError as failure:
        return KernelLog(problem=f"the kernel log is not readable ({failure.strerror}): run as root")


def _read_journal() -> str:
    """Read the kernel's messages since boot; "" if there is no journal or no answer."""
    journalctl = shutil.which("journalctl")
    if not journalctl:
        return ""
    try:
        done = run_command(
            [journalctl, "--dmesg", "--boot", "--output=cat", "--no-pager", "--quiet"], timeout=COMMAND_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def find_xids(log: str) -> tuple[Xid, ...]:
    """Find the Xid reports in the text of a kernel log, in order."""
    return tuple(Xid(int(m["code"]), m["pci"], (m["text"] or "").strip()) for m in XID.finditer(log))


def _read_ring_buffer() -> str:
    """Read /dev/kmsg as text.

    One read is one record; EPIPE means that the record was overwritten meanwhile.
    """
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
    """Return the addresses of NVIDIA display controllers on the PCI bus, with or without a driver."""
    addresses = []
    for device in sorted(root.glob("*")):
        with contextlib.suppress(OSError):
            vendor, kind = (device.joinpath(name).read_text().strip() for name in ("vendor", "class"))
            if vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS):
                addresses.append(device.name)
    return tuple(addresses)


def run_computation(
    which: Literal["driver", "torch"], uuids: tuple[str, ...], *, python: str | None, timeout: float
) -> GpuComputation:
    """Run the computation of `cuda_probe.py` in its own process, with a time limit in seconds."""
    try:
        done = run_command([python or sys.executable, "-I", str(PROBE), which, *uuids], timeout=timeout)
    except subprocess.TimeoutExpired:
        return GpuComputation(problem=f"no answer in {timeout:g} s: the GPU or its driver hangs")
    except OSError as failure:
        return GpuComputation(problem=f"{python}: {failure.strerror}")
    try:
        return GpuComputation(**json.loads(done.stdout))
    except (ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return GpuComputation(problem=f"the probe died with exit status {done.returncode}: {last[:200]}")


def read_disk(path: str) -> Disk:
    """Read the free space on the file system of `path`, or of its nearest existing parent."""
    existing = Path(path)
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        status = os.statvfs(existing)
    except OSError as failure:
        return Disk(path, 0, 0, None, problem=failure.strerror or str(failure))
    inodes = status.f_favail if status.f_files else None
    return Disk(path, status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, inodes)


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
    """Read the time, and from adjtimex(2) whether a time service sets it.

    `skew` is the difference to the clock of a server, in seconds.
    """
    state = _Timex()
    try:
        returned = ctypes.CDLL(None).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return Clock(time.time(), None, skew)
    return Clock(time.time(), None if returned < 0 else not state.status & STA_UNSYNC, skew)


def read_runner(directory: str) -> RunnerInstall | ProbeAnswer:
    """Read the manifest of the unpacked runner in `directory`."""
    try:
        text = Path(directory, RUNNER_MANIFEST).read_bytes()
        return read_json(RunnerInstall, text, what=RUNNER_MANIFEST)
    except OSError as failure:
        return ProbeAnswer(False, f"{directory}/{RUNNER_MANIFEST}: {failure.strerror}")
    except HubTestsError as failure:
        return ProbeAnswer(False, str(failure))


def read_store(store: str, job_user: str | None) -> ProbeAnswer:
    """Check that the job's user can read all of the store and write nothing in it.

    find(1), run as that user, asks the kernel.
    """
    if not Path(store).is_dir():
        return ProbeAnswer(False, f"{store} is not a directory")
    if job_user is None or os.geteuid() != 0:
        reason = "no job user was given" if job_user is None else f"only root can look as {job_user}"
        return ProbeAnswer(None, f"{store}: {reason}")
    command = ["find", store, "!", "-type", "l", "(", "-writable", "-o", "!", "-readable", ")", "-print", "-quit"]
    try:
        done = run_command(command, timeout=COMMAND_TIMEOUT, user=job_user)
    except (OSError, subprocess.SubprocessError, KeyError, ValueError) as failure:
        return ProbeAnswer(None, f"{store}: could not look as {job_user}: {failure}")
    if wrong := done.stdout.strip() or done.stderr.strip().partition("\n")[0]:
        return ProbeAnswer(False, f"{wrong} is writable by {job_user}, or unreadable")
    return ProbeAnswer(True, f"{store}: readable by {job_user}, not writable")


def read_hub(endpoint: str) -> tuple[ProbeAnswer, float | None]:
    """Ask the Hub; return whether it answers, and the seconds that our clock is ahead.

    Any HTTP status is an answer. The clock is compared with its `Date`; None without one.
    """
    started = time.monotonic()
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  the endpoint is the operator's choice
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT) as response:  # noqa: S310
            date = response.headers["Date"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            date = refusal.headers["Date"]
    except (OSError, ValueError, http.client.HTTPException) as failure:
        return ProbeAnswer(False, f"{endpoint}: {getattr(failure, 'reason', failure)}"), None
    took = time.monotonic() - started
    return ProbeAnswer(True, f"{endpoint} answered in {took * 1000:.0f} ms"), _seconds_ahead(date)


def read_proxy(environ: Mapping[str, str]) -> ProbeAnswer | None:
    """Connect to the proxy that the environment names; None where it names none.

    A password in it is not repeated.
    """
    names = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    name = next((name for name in names if environ.get(name)), None)
    if name is None:
        return None
    try:
        parts = urlsplit(environ[name] if "://" in environ[name] else f"http://{environ[name]}")
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((host, port), timeout=HTTP_TIMEOUT):
            return ProbeAnswer(True, f"{name}: {host}:{port} answers")
    except (OSError, ValueError) as failure:
        return ProbeAnswer(False, f"{name}: the proxy does not answer: {failure}")


def _seconds_ahead(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except (TypeError, ValueError):
        return None


def run_command(command: list[str], *, timeout: float, user: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or to the time limit in seconds.

    A process that is stuck in the kernel cannot be killed, and stays. Raises subprocess.TimeoutExpired, OSError.
    """
    extra: dict[str, Any] = {} if user is None else _options_for(user)
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


def _options_for(user: str) -> dict[str, Any]:
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups, "cwd": "/"}
