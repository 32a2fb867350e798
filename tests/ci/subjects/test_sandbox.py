"""A sandboxed program sees and writes what its policy names, and ends with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci.errors import InfrastructureError, RequestError
from ci.subjects import sandbox
from ci.subjects.interpreter_paths import list_interpreter_directories
from ci.subjects.sandbox import (
    Isolation,
    SandboxPolicy,
    check_readable,
    choose_isolation,
    detect_isolation,
    make_accessible,
    sandbox_command,
)
from ci.subjects.worker_launch import WorkerLaunch

ISOLATION = detect_isolation()
live = pytest.mark.skipif(not ISOLATION.applied, reason=f"no sandbox here: {ISOLATION.description}")
ROOT = Path(__file__).parents[3]


def run_inside(code: str, *, readable: tuple[Path, ...] = (), writable: tuple[Path, ...] = ()) -> str:
    """Run Python code in a sandbox and return what it printed."""
    return run_policy(code, SandboxPolicy((*list_interpreter_directories(Path(sys.executable)), *readable), writable))


def run_policy(code: str, policy: SandboxPolicy) -> str:
    python = Path(sys.executable)
    command = sandbox_command(ISOLATION, policy, [str(python), "-I", "-c", code], {"PATH": "/usr/bin:/bin"})
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def attempt(action: str) -> str:
    """Code that prints the name of the error that an action ends with, or `done`."""
    return (
        "import os, socket, subprocess\n"
        f"try:\n    {action}\nexcept BaseException as error:\n    print(type(error).__name__)\nelse:\n    print('done')"
    )


@live
def test_it_is_another_user_without_capabilities() -> None:
    code = "import os; print(os.getuid(), [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')])"
    assert run_inside(code) == f"{sandbox.USER} ['0000000000000000']"


@live
def test_it_sees_no_other_process() -> None:
    seen = run_inside("import os; print(sum(name.isdigit() for name in os.listdir('/proc')))")
    assert int(seen) <= 3
    assert run_inside(attempt(f"os.kill({os.getpid() + 100_000}, 0)")) == "ProcessLookupError"


@live
def test_it_has_loopback_and_no_other_network() -> None:
    assert run_inside(attempt("socket.create_connection(('192.0.2.1', 80), timeout=2)")) == "OSError"
    both = "server = socket.create_server(('localhost', 0)); socket.create_connection(server.getsockname())"
    assert run_inside(attempt(both)) == "done"


METADATA_ADDRESSES = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254")
"""Where a machine in a cloud, a task or a pod asks for its credentials (AWS, Google, Azure and others)."""


@live
@pytest.mark.parametrize("address", METADATA_ADDRESSES)
def test_the_machines_identity_cannot_be_asked_for(address: str) -> None:
    assert run_inside(attempt(f"socket.create_connection(({address!r}, 80), timeout=2)")) == "OSError"


@live
def test_a_store_on_the_machines_own_loopback_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run_inside(attempt(f"socket.create_connection(('127.0.0.1', {port}), timeout=2)")) == (
            "ConnectionRefusedError"
        )


@live
def test_credentials_of_a_store_do_not_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by variables, through the launch of a worker, nor as files of the machine's user."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = dict.fromkeys(STORE_VARIABLES, "secret")
    launch = WorkerLaunch("reference", Path(sys.executable), (), given, tmp_path / "log", ISOLATION, ())
    assert "secret" not in launch.make_environment(tmp_path).values()
    for name in STORE_VARIABLES:
        monkeypatch.setenv(name, "secret")
    seen = run_inside("import os, pathlib; print(*os.environ.values(), *pathlib.Path.home().rglob('*'))")
    assert "secret" not in seen
    assert ".aws" not in seen
    assert run_inside(attempt(f"open({str(tmp_path / '.aws' / 'credentials')!r})")) == "FileNotFoundError"


STORE_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_STORAGE_KEY",
    "HUB_TESTS_STORE_URL",
)


@live
def test_it_sees_only_the_directories_of_its_policy(tmp_path: Path) -> None:
    for name in ("secret", "readable", "writable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    make_accessible(ISOLATION, tmp_path / "writable")
    binds = {"readable": (tmp_path / "readable",), "writable": (tmp_path / "writable",)}
    assert run_inside(f"import os; print(sorted(os.listdir({str(tmp_path)!r})))", **binds) == "['readable', 'writable']"
    assert run_inside(f"print(open('{tmp_path}/readable/file').read())", **binds) == "readable"
    assert run_inside(attempt(f"open('{tmp_path}/readable/new', 'w')"), **binds) == "OSError"
    assert run_inside(attempt(f"open('{tmp_path}/readable/file', 'w')"), **binds) in ("OSError", "PermissionError")
    assert run_inside(attempt(f"open('{tmp_path}/writable/new', 'w')"), **binds) == "done"
    assert sorted(path.name for path in (tmp_path / "readable").iterdir()) == ["file"]


@live
def test_a_directory_can_have_another_path_inside(tmp_path: Path) -> None:
    """It is written under the inner path, and cannot be replaced there; the outer one is not there."""
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    directory = tmp_path / "outside"
    directory.mkdir()
    sandbox.make_accessible(ISOLATION, directory)
    code = (
        f"import os; open('/tmp/inside/file', 'w').write('x'); print(os.path.exists({str(directory)!r}))\n"
        + attempt("os.rename('/tmp/inside', '/tmp/other')")
        + "\n"
        + attempt("os.rmdir('/tmp/inside')")
    )
    readable = list_interpreter_directories(Path(sys.executable))
    said = run_policy(code, SandboxPolicy(readable, placed=((directory, "/tmp/inside"),)))
    assert said.split()[0] == "False"
    assert "done" not in said
    assert said.count("Error") == 2
    assert (directory / "file").read_text() == "x"


@live
def test_the_kernels_settings_cannot_be_written() -> None:
    assert run_inside(attempt("open('/proc/sys/kernel/core_pattern', 'w')")) == "PermissionError"


@live
def test_its_environment_is_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    names = set(run_inside("import os; print(*os.environ)").split())
    assert names <= {"PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "PWD", "LC_CTYPE"}


@live
def test_its_temporary_files_have_a_limit() -> None:
    policy = SandboxPolicy(list_interpreter_directories(Path(sys.executable)), temporary_bytes=2**20)
    code = attempt("open('/tmp/big', 'wb').write(bytes(2**21))")
    command = sandbox_command(ISOLATION, policy, [sys.executable, "-I", "-c", code], {})
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "OSError"


@live
def test_what_it_left_running_ends_with_it(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    beat.mkdir()
    make_accessible(ISOLATION, beat)
    loop = f"while true; do date +%N > {beat}/alive; sleep 0.05; done"
    policy = SandboxPolicy(writable=(beat,))
    command = sandbox_command(
        ISOLATION, policy, ["/bin/sh", "-c", f"setsid sh -c '{loop}' & sleep 600"], {"PATH": "/usr/bin:/bin"}
    )
    program = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (beat / "alive").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    time.sleep(0.3)
    last = (beat / "alive").read_text()
    time.sleep(0.3)
    assert (beat / "alive").read_text() == last


@live
def test_the_same_holds_without_root(tmp_path: Path) -> None:
    """An ordinary user's sandbox; started from root by way of setpriv and the system's Python."""
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0 or not python.exists():
        pytest.skip("needs root, to become another user, and the system's Python")
    copy = tmp_path / "code" / "ci"
    (copy / "subjects").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "subjects/__init__.py", "subjects/sandbox.py"):
        (copy / name).write_text((ROOT / "ci" / name).read_text())
    for directory in (*reversed(tmp_path.parents[:-2]), tmp_path):
        directory.chmod(0o755)
    code = (
        "import subprocess; from pathlib import Path; from ci.subjects.sandbox import *\n"
        "isolation = detect_isolation(); assert not isolation.as_root\n"
        "action = 'import os; print(os.getuid()); os.unshare(os.CLONE_NEWUSER)' if hasattr(__import__('os'), 'unshare')"
        ' else \'import os, subprocess; print(os.getuid(), subprocess.run(["unshare", "-U", "true"]).returncode)\'\n'
        "words = sandbox_command(isolation, SandboxPolicy(), ['/usr/bin/python3', '-I', '-c', action],"
        " {'PATH': '/usr/bin:/bin'})\n"
        "print(isolation.description, subprocess.run(words, capture_output=True, text=True).stdout)"
    )
    command = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", str(python), "-c", code]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tmp_path / "code"), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert f"{sandbox.USER} 1" in done.stdout, done.stderr


def test_a_required_sandbox_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "detect_isolation", lambda: Isolation(None, "bubblewrap is not installed"))
    with pytest.raises(InfrastructureError, match="bubblewrap is not installed"):
        choose_isolation("required")
    assert choose_isolation("auto").applied is False
    assert "--isolation none" in choose_isolation("none").description


def test_what_the_sandboxes_user_may_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    as_root, as_user = (Isolation(Path("bwrap"), "", as_root=value) for value in (True, False))
    with pytest.raises(RequestError, match=r"chmod -R o\+rX"):
        check_readable(as_root, [tmp_path / "private"])
    check_readable(as_user, [tmp_path / "private"])
    (tmp_path / "private").chmod(0o755)
    check_readable(as_root, [tmp_path / "private"])
