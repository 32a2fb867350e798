"""What a host hands to its jobs: environments, wheels, certificates, and for several cards what NCCL needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ci.certificates import read_certificates
from ci.doctor.records import GIB, Check, ProbeAnswer
from ci.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.doctor.records import Status
    from ci.nvml import Gpu

SHARED_MEMORY = GIB
"""Bytes that must be left in /dev/shm: NCCL's transport between processes writes there, and 64 MiB are too few.

https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html#shared-memory
"""
MANIFEST = "environment.json"
WHEEL_VARIABLES = ("UV_FIND_LINKS", "PIP_FIND_LINKS")
EXPECTED = {
    "environments": "readable, not writable by jobs",
    "wheels": "readable, not writable by jobs",
    "certificates": "a file of certificates",
    "NCCL devices": "each card's device, nvidiactl and nvidia-uvm can be opened",
    "shared memory": f"at least {SHARED_MEMORY // GIB} GiB left in /dev/shm",
}
FIXES = {
    "environments": "mount it read-only; build with: hub-tests env build, HUB_TESTS_ENVIRONMENTS naming the directory",
    "wheels": "mount it read-only, or unset the variable",
    "certificates": "correct SSL_CERT_FILE, on a runner host proxy.certificates of hub-runner.toml",
    "NCCL devices": "give the slot or the container these devices; modprobe nvidia-uvm",
    "shared memory": "give the container a larger /dev/shm (--shm-size=8g), or a slot more tmp_gib",
}


def read_provisions(
    environ: Mapping[str, str], gpus: Sequence[Gpu], devices: Path = Path("/dev")
) -> tuple[tuple[str, ProbeAnswer], ...]:
    """Look at what the environment names and several cards need; name each answer's check."""
    found: list[tuple[str, ProbeAnswer]] = []
    if shared := environ.get("HUB_TESTS_SHARED_ENVIRONMENTS"):
        found.append(("environments", _read_folder(Path(shared), f"*/{MANIFEST}", "environments")))
    links = {word for name in WHEEL_VARIABLES for word in environ.get(name, "").replace(",", " ").split()}
    folders = sorted(Path(word) for word in links if word.startswith("/"))
    found += [("wheels", _read_folder(folder, "*.whl", "wheels")) for folder in folders]
    if certificates := environ.get("SSL_CERT_FILE"):
        found.append(("certificates", _read_certificates(certificates)))
    if len(gpus) > 1:
        names = [*(f"nvidia{gpu.index if gpu.minor is None else gpu.minor}" for gpu in gpus), "nvidiactl", "nvidia-uvm"]
        found += [("NCCL devices", _read_devices(devices, names)), ("shared memory", _read_shared(devices / "shm"))]
    return tuple(found)


def check_provisions(answers: Sequence[tuple[str, ProbeAnswer]], bad: Status) -> Iterator[Check]:
    """Make a check of each answer; `bad` is what a wrong one amounts to."""
    for name, answer in answers:
        fix = "" if answer.ok else FIXES[name]
        yield Check(name, "ok" if answer.ok else bad, answer.text, EXPECTED[name], fix)


def _read_folder(folder: Path, pattern: str, what: str) -> ProbeAnswer:
    if not folder.is_dir():
        return ProbeAnswer(False, f"{folder} is not a directory")
    if not os.access(folder, os.R_OK | os.X_OK):
        return ProbeAnswer(False, f"{folder} is unreadable")
    if os.geteuid() != 0 and os.access(folder, os.W_OK):
        return ProbeAnswer(False, f"{folder} is writable")
    return ProbeAnswer(True, f"{folder}: {len(list(folder.glob(pattern)))} {what}")


def _read_certificates(file: str) -> ProbeAnswer:
    try:
        found = read_certificates(Path(file))
    except RequestError as problem:
        return ProbeAnswer(False, str(problem))
    expired = f"{len(found.expired)} expired among " if found.expired else ""  # distributions keep some for a while
    return ProbeAnswer(True, f"{file}: {expired}{found.authorities} authorities")


def _read_devices(devices: Path, names: Sequence[str]) -> ProbeAnswer:
    closed = [name for name in names if not os.access(devices / name, os.R_OK | os.W_OK)]
    return ProbeAnswer(not closed, f"cannot be opened: {', '.join(closed)}" if closed else ", ".join(names))


def _read_shared(folder: Path) -> ProbeAnswer:
    try:
        seen = os.statvfs(folder)
    except OSError as problem:
        return ProbeAnswer(False, f"{folder}: {problem.strerror}")
    free = seen.f_bavail * seen.f_frsize
    if not os.access(folder, os.W_OK):
        return ProbeAnswer(False, f"{folder} is not writable")
    return ProbeAnswer(free >= SHARED_MEMORY, f"{free / GIB:.1f} GiB")
