"""A machine of its own, with systemd as its first process, to prove the units on. Needs root, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup")
SITE_PACKAGES = Path(pytest.__file__).parents[1]
BOOT_SECONDS = 60


@dataclass(frozen=True)
class Machine:
    """`pid` is its first process as this machine numbers it, `root` its files as this machine's root does not."""

    pid: int

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run a command in the machine, as its root; returns what it printed."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-i", "-u", "-n", "-C", "--root", "--wd", *command]
        answer = subprocess.run(inside, input=stdin, capture_output=True, text=True, timeout=90, check=False)
        if check and answer.returncode:
            told = "\n".join((answer.stdout, answer.stderr, self.journal()))
            raise AssertionError(f"{command} failed with {answer.returncode}: {told}")
        return answer.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path} && chmod {mode:o} {path}", stdin=text)

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 40) -> None:
        """Wait until `ready`, and show the journal when it never is."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.journal()}")
            time.sleep(0.2)

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--lines=200", check=False)[-6000:]


def why_not() -> str:
    """Why no machine can be made here; "" where one can."""
    if os.geteuid() != 0:
        return "only root can make namespaces with devices"
    missing = [tool for tool in ("unshare", "nsenter", "ip", "nft", "mkfs.ext4") if not shutil.which(tool)]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"apt-get install systemd nftables iproute2 e2fsprogs util-linux (missing: {missing or 'systemd'})"
    probe = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not to be had here: {probe.stderr.strip()}" if probe.returncode else ""


@contextmanager
def booted(scratch: Path) -> Iterator[Machine]:
    """Boot it, and end it with everything in it."""
    if reason := why_not():
        pytest.skip(reason)
    arguments = (str(scratch), str(REPOSITORY), str(SITE_PACKAGES), sys.base_prefix)
    command = ["unshare", *NAMESPACES, "--fork", "--kill-child", str(HERE / "boot.sh"), *arguments]
    log = scratch / "boot.log"
    with own_cgroup() as enter, log.open("w") as output:
        process = subprocess.Popen([*enter, *command], stdout=output, stderr=output, start_new_session=True)
        try:
            yield Machine(_first_process(process, log))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@contextmanager
def own_cgroup() -> Iterator[list[str]]:
    """A cgroup that the machine takes for its root, so that none of its own stay behind; the command to enter it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    parents = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    if not parents:
        yield []
        return
    group = Path(parents[0], f"hub-runner-test-{os.getpid()}")
    group.mkdir()
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        (group / "cgroup.kill").write_text("1")
        end = time.monotonic() + BOOT_SECONDS
        while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < end:
            time.sleep(0.05)
        for directory in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            directory.rmdir()
        group.rmdir()


def _first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    """The child of unshare, once its systemd answers."""
    end = time.monotonic() + BOOT_SECONDS
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and time.monotonic() < end:
        if pids := children.read_text().split():
            state = Machine(int(pids[0])).run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return int(pids[0])
        time.sleep(0.2)
    if "overlay" in log.read_text():
        pytest.skip(f"no overlay of this machine's files: {log.read_text()[-300:]}")
    raise AssertionError(f"the machine did not boot: {log.read_text()[-3000:]}")
