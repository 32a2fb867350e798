"""The job of the live tests' runner: it tries what a job must not be able to do, and writes down the answers."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWCGROUP, CLONE_NEWUSER = 0x02000000, 0x10000000
DISK = Path(os.environ["HOME"]).parent


def tried(act: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return act(*arguments)
    except OSError as failure:
        return f"errno {failure.errno}"


def written(path: str) -> str:
    Path(path).write_text("x")
    return "written"


def reached(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=3):
        return "reached"


def opened(path: str) -> str:
    os.close(os.open(path, os.O_RDWR))
    return "opened"


def unshared(namespace: int) -> str:
    if ctypes.CDLL(None, use_errno=True).unshare(namespace):
        raise OSError(ctypes.get_errno(), "unshare")
    return "unshared"


IN_SANDBOX = """
import json, os, socket, sys

def tried(act):
    try:
        return act() or "done"
    except OSError as failure:
        return f"errno {failure.errno}"

status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps({
    "pid": os.getpid(),
    "processes": [int(name) for name in os.listdir("/proc") if name.isdecimal()],
    "environment": sorted(os.environ),
    "network": sorted(name for _, name in socket.if_nameindex()),
    "CapEff": status["CapEff"].strip(),
    "home": tried(lambda: open(sys.argv[1] + "/home/x", "w").close()),
    "trace": tried(lambda: open("/mnt/trace", "w").close()),
    "judge": tried(lambda: open(f"/proc/{sys.argv[2]}/mem", "rb").close()),
    "outer proc": tried(lambda: os.listdir("/var/lib/hub-runner/root-only") and "listed"),
    "nested": tried(lambda: os.unshare(0x10000000)) if hasattr(os, "unshare") else "",
}))
"""


def sandboxed() -> Any:
    """Run a program as the code under test is run, and return what it meets."""
    if shutil.which("bwrap") is None:
        return None
    handover = DISK / "tmp/handover"
    handover.mkdir()
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--ro-bind", "/", "/", "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]
    command += ["--bind", str(handover), "/mnt"]
    command += [sys.executable, "-I", "-c", IN_SANDBOX, str(DISK), str(os.getpid())]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else answer.stderr


def in_child(act: Callable[..., Any], *arguments: Any) -> Any:
    """Try in a process of its own: it changes the namespaces of whoever does it."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        os.write(writer, str(tried(act, *arguments)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reader, 100).decode()


def prepared(shared: str) -> str:
    """Use the environment that the host has built, and return what it says."""
    for python in Path(shared).glob("*/bin/python"):
        command = [str(python), "-c", "import prebuilt; print(prebuilt.VALUE)"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return "none"


def names(path: str | Path) -> list[str]:
    return sorted(each.name for each in Path(path).iterdir())


def memory(path: str) -> int:
    room = os.statvfs(path)
    return room.f_blocks * room.f_frsize


def look(store: str) -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    places = ("/etc/x", "/usr/x", "/opt/hub-runner/x", "/var/lib/hub-runner/x", f"{store}/x", "/tmp/x", "/dev/shm/x")
    kept_places = tuple(f"/var/lib/hub-runner/{kept}/x" for kept in ("environments", "wheels", "compiled"))
    closed = ("/etc/hub-runner", "/run/hub-runner", "/var/log", "/run/systemd/private", "/root", "/home")
    return {
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "status": {name: status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")},
        "prepared": prepared(os.environ["HUB_TESTS_SHARED_ENVIRONMENTS"]),
        "wheels": names(os.environ["UV_FIND_LINKS"]),
        "write": {place: tried(written, place) for place in (*places, *kept_places)},
        "list": {place: tried(names, place) for place in closed},
        "device": {name: tried(opened, f"/dev/{name}") for name in ("nvidia0", "nvidia1", "null")},
        "net": {host: tried(reached, host, 8080) for host in ("127.0.0.1", "169.254.169.254", "10.9.8.7")},
        "low port": tried(reached, "127.0.0.1", 22),
        "processes": [int(name) for name in names("/proc") if name.isdecimal()],
        "unshare": {"cgroup": tried(unshared, CLONE_NEWCGROUP), "user": in_child(unshared, CLONE_NEWUSER)},
        "sandbox": sandboxed(),
        "outer proc": tried(names, "/var/lib/hub-runner/root-only/proc"),
        "home": names(os.environ["HOME"]),
        "tmp": names("/tmp"),
        "slots": tried(names, DISK.parent.parent),
        "disk": memory(os.environ["TMPDIR"]),
        "shm": memory("/dev/shm"),
        "environment": sorted(os.environ),
        "jit": os.environ.get("ACTIONS_RUNNER_INPUT_JITCONFIG", ""),
    }


def main(store: str) -> None:
    facts = look(store)
    Path(os.environ["HOME"], "litter").write_text("x")
    Path("/dev/shm/litter").write_text("x")
    # A process that leaves its session, its parent and every marker behind, and asks not to be ended.
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen(["setsid", "-f", sys.executable, "-c", ignoring], env={"PATH": "/usr/bin:/bin"})
    diag = DISK / "runner/_diag"
    diag.mkdir()
    diag.joinpath("facts.log").write_text(json.dumps(facts))
    diag.joinpath("link.log").symlink_to("/etc/shadow")
    end = time.monotonic() + 60
    while Path(store, "wait").exists() and time.monotonic() < end:
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
