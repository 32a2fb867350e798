"""The same attacks where judge and subject are one ordinary user: only namespaces and mounts keep them apart.

First the sandbox itself is attacked, with the system's Python; then a whole run, with the interpreter of the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.subjects.sandbox import detect_isolation
from tests.attacks.cases import ATTACKS
from tests.attacks.ordinary_user import USER, become_ordinary
from tests.attacks.scene import Scene, find_failures, hash_tree, list_leftovers, list_processes
from tests.standin.models import repository
from tests.standin.server import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PYTHON = Path("/usr/bin/python3")
pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("attacks"),
    pytest.mark.skipif(os.geteuid() != 0 or not PYTHON.exists(), reason="needs root, to become another user"),
    pytest.mark.skipif(not detect_isolation().applied, reason="no sandbox here"),
]
JUDGE = """
import os, subprocess, sys, time
from pathlib import Path
from ci.subjects.sandbox import SandboxPolicy, detect_isolation, sandbox_command

root = Path(sys.argv[1])
isolation = detect_isolation()
assert isolation.applied and not isolation.as_root, isolation
policy = SandboxPolicy(readable=(root / "inbox", root / "attack.py"), writable=(root / "outbox",))
command = ["/usr/bin/python3", "-I", str(root / "attack.py"), str(os.getpid()), str(root)]
with open(root / "log", "ab") as log:
    done = subprocess.run(
        sandbox_command(isolation, policy, command, {"PATH": "/usr/bin:/bin"}), stdout=log, stderr=log, timeout=60
    )
print("judge goes on", done.returncode)
"""
ATTACK = """
import ctypes, os, signal, socket, stat, subprocess, sys
from pathlib import Path

judge, root = int(sys.argv[1]), Path(sys.argv[2])
inbox, outbox = root / "inbox" / "weights", root / "outbox"


def attempt(label, action):
    try:
        action()
    except BaseException as error:
        print("refused", label, type(error).__name__, flush=True)
    else:
        print("done", label, flush=True)


def call(number, *arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


attempt("write what it reads", lambda: open(inbox, "ab"))
attempt("make it writable", lambda: inbox.chmod(0o666))
attempt("write the judge's file", lambda: open(root / "judge.py", "r+b"))
attempt("link what it reads", lambda: os.link(inbox, outbox / "linked"))
attempt("link its log", lambda: os.link("/proc/self/fd/1", outbox / "log", follow_symlinks=True))
attempt("kill the judge", lambda: os.kill(judge, signal.SIGKILL))
attempt("stop the judge", lambda: os.kill(judge, signal.SIGSTOP))
attempt("read its memory", lambda: open(f"/proc/{judge}/mem", "rb"))
attempt("read its environment", lambda: open(f"/proc/{judge}/environ", "rb"))
attempt("trace it", lambda: call(101, 16, judge, 0, 0))
attempt("a user namespace", lambda: call(272, 0x10000000))
attempt("a mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0))
attempt("remount", lambda: call(165, 0, str(root / "inbox").encode(), 0, 0x20 | 0x1000, 0))
attempt("become root", lambda: os.setuid(0))
attempt("a device", lambda: os.mknod(outbox / "disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)))
attempt("the network", lambda: socket.create_connection(("192.0.2.1", 80), timeout=2))
attempt("leave a file", lambda: open("/var/tmp/" + root.name, "w"))
attempt("write the kernel's settings", lambda: open("/proc/sys/kernel/core_pattern", "w"))
if not os.fork():
    os.setsid()
    os.closerange(0, 64)
    os.execv("/bin/sh", ["/bin/sh", "-c", "while true; do sleep 1; done", f"hub-attack-{root.name}"])
os.symlink("/etc/passwd", outbox / "symlink")
print("ended", flush=True)
"""


def test_an_ordinary_users_sandbox_holds(tmp_path: Path) -> None:
    root = tmp_path / f"rootless-{os.getpid()}"
    for name in ("code", "inbox", "outbox"):
        (root / name).mkdir(parents=True)
    shutil.copytree(ROOT / "ci", root / "code" / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in {"judge.py": JUDGE, "attack.py": ATTACK, "inbox/weights": "weights", "log": ""}.items():
        (root / name).write_text(text)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(root)], check=True)
    for directory in (root, *root.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "log"}
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", str(PYTHON), str(root / "judge.py")]
    environ = {"PYTHONPATH": str(root / "code"), "PATH": "/usr/bin:/bin", "SECRET": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*words, str(root)], env=environ, capture_output=True, text=True, check=False, timeout=120)
    said = (root / "log").read_text().splitlines()
    assert done.stdout.strip() == "judge goes on 0", done.stderr + "\n".join(said)
    assert said[-1] == "ended"
    assert [line for line in said if line.startswith("done")] == []
    assert len(said) == 19
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in (root / "outbox").iterdir()) == ["symlink"]
    assert not Path("/var/tmp", root.name).exists()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"hub-attack-{root.name}" not in listed


MADE = (
    "appends to the judge's code",
    "writes the files of Actions",
    "reads and writes the judge's memory",
    "writes to the store and poisons the caches",
    "kills and stops every process",
    "leaves a daemon behind",
)
"""Attacks that one worker makes after one another."""

OWN = re.compile("done: (ptrace|/proc/[12]/)")
"""What it may do to bubblewrap's own process, which is its user's: only the sandbox's processes are in its /proc."""

READ_OWN = "say('environment of 1', open('/proc/1/environ').read())\n"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that others may enter: every start of pytest closes the one above tmp_path."""
    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def hash_owned(scene: Scene) -> dict[str, str]:
    """Hash what no attack may change; the judge itself notes in `verified` that it has hashed a checkpoint."""
    return {path: digest for path, digest in hash_tree(*scene.protected).items() if "/store/verified/" not in path}


def test_a_whole_run_of_an_ordinary_user_is_red(open_directory: Path) -> None:
    root = open_directory / "scene"
    root.mkdir()
    with HubServer() as hub:
        hub.add("stand-in/llama", repository("stand-in/llama"))
        scene = Scene(root, hub.endpoint)
        scene.build()
        scene.fetch()
        checkout = scene.write_subject("\n".join([*(textwrap.dedent(ATTACKS[name].code) for name in MADE), READ_OWN]))
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(root)], check=True)
        scene.prefix = tuple(become_ordinary())
        before = hash_owned(scene)
        done, results = scene.run(checkout)
    said = scene.read_log()
    assert done.returncode == 1, done.stdout + done.stderr
    assert find_failures(results)["test_forward_equivalence"] == "numeric_mismatch", done.stdout
    assert scene.report.stat().st_uid == USER
    assert "ATTACK left a daemon" in said
    assert len([line for line in said if "refused:" in line]) > len(MADE)
    assert [line for line in said if ("done:" in line and not OWN.search(line)) or "leaked" in line] == []
    (environment,) = (line for line in said if line.startswith("ATTACK environment of 1"))
    assert "PATH=" in environment
    assert "secret" not in environment
    assert hash_owned(scene) == before
    assert list_processes(scene.marker) == []
    assert list_leftovers(scene.marker) == []
    assert list(scene.temporary.iterdir()) == []
