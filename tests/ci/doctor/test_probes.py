"""The probes on this machine: real files, a real process with a time limit, a real server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.doctor import probes
from ci.doctor.probes import read_proxy
from ci.doctor.records import RUNNER_MANIFEST, ProbeAnswer, RunnerInstall
from ci.records import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")
OTHER_USER = "nobody"


@pytest.mark.parametrize(
    ("line", "code", "pci"),
    [
        ("NVRM: Xid (PCI:0000:65:00): 79, pid=1, GPU has fallen off the bus.", 79, "0000:65:00"),
        ("[ 12.3] NVRM: Xid (0000:65:00): 31, Ch 0000007b, engmask 00000101", 31, "0000:65:00"),
        ("6,1,2,-;NVRM: Xid (PCI:0003:01:00): 48", 48, "0003:01:00"),
    ],
)
def test_xids_are_found_in_each_of_the_kernels_spellings(line: str, code: int, pci: str) -> None:
    (xid,) = probes.find_xids(f"noise\n{line}\nNVRM: loading")
    assert (xid.code, xid.pci) == (code, pci)


def test_the_kernel_log_is_read_or_the_reason_is_told() -> None:
    log = probes.read_kernel_log()
    assert bool(log.source) != bool(log.problem)


def test_nvidia_display_controllers_are_found_on_the_bus(tmp_path: Path) -> None:
    for name, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:01:00.1", "0x10de", "0x040300"),  # a card's sound function
        ("0000:02:00.0", "0x8086", "0x030000"),
    ):
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "vendor").write_text(vendor + "\n")
        tmp_path.joinpath(name, "class").write_text(kind + "\n")
    assert probes.read_pci(tmp_path) == ("0000:01:00.0",)
    assert probes.read_pci(tmp_path / "none") == ()


def test_the_room_of_a_path_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    disk = probes.read_disk(str(tmp_path / "not" / "yet"))
    assert disk.problem == ""
    assert 0 < disk.free <= disk.total


def test_the_clock_answers() -> None:
    clock = probes.read_clock(1.5)
    assert clock.skew == 1.5
    assert clock.synchronised in (True, False, None)


def test_a_runner_without_a_readable_manifest_is_unknown(tmp_path: Path) -> None:
    assert isinstance(probes.read_runner(str(tmp_path)), ProbeAnswer)
    tmp_path.joinpath(RUNNER_MANIFEST).write_text("{")
    assert isinstance(probes.read_runner(str(tmp_path)), ProbeAnswer)
    install = RunnerInstall("2.336.0", "2026-11-10T00:00:00Z", "0" * 64)
    tmp_path.joinpath(RUNNER_MANIFEST).write_text(to_json(install))
    assert probes.read_runner(str(tmp_path)) == install


@pytest.fixture
def store() -> Iterator[Path]:
    """A store that every user can reach: pytest's own directories are closed to other users."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)
        place.joinpath("weights").write_bytes(b"x")
        place.joinpath("weights").chmod(0o644)
        yield place


@as_root
def test_a_store_is_seen_with_the_jobs_users_eyes(store: Path) -> None:
    assert probes.read_store(str(store), OTHER_USER).ok
    store.joinpath("weights").chmod(0o666)
    assert "weights is writable" in probes.read_store(str(store), OTHER_USER).text
    store.joinpath("weights").chmod(0o600)
    assert not probes.read_store(str(store), OTHER_USER).ok
    store.joinpath("weights").chmod(0o644)
    store.chmod(0o777)
    assert not probes.read_store(str(store), OTHER_USER).ok


def test_a_store_that_nobody_can_judge_is_not_called_fine(store: Path) -> None:
    assert probes.read_store(str(store), None).ok is None
    assert probes.read_store(str(store), "no-such-user").ok is None
    assert probes.read_store(str(store / "missing"), OTHER_USER).ok is False


@contextmanager
def server(date: str | None, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(status)
            if date:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 401, 503])
def test_any_answer_of_the_hub_is_an_answer_and_tells_the_time(status: int) -> None:
    with server(formatdate(0, usegmt=True), status) as url:
        answer, skew = probes.read_hub(url)
    assert answer.ok
    assert skew is not None
    assert skew > 1e9


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_server_without_a_usable_date_tells_no_skew(date: str | None) -> None:
    with server(date) as url:
        assert probes.read_hub(url)[1] is None


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense"])
def test_a_hub_that_does_not_answer_is_told(endpoint: str) -> None:
    assert probes.read_hub(endpoint)[0].ok is False


def test_the_operation_without_a_driver_is_a_problem() -> None:
    operation = probes.run_computation("driver", (), python=None, timeout=60)
    assert operation.problem or operation.devices


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("import os; os.abort()", "died with exit status -6"),
        ("print('nonsense')", "died with exit status 0"),
        ("import time; time.sleep(60)", "hangs"),
    ],
)
def test_a_probe_that_dies_lies_or_hangs_is_a_problem(
    script: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(script)
    monkeypatch.setattr(probes, "PROBE", probe)
    assert (
        text
        in probes.run_computation("driver", (), python=sys.executable, timeout=1.0 if "sleep" in script else 60).problem
    )


def test_an_interpreter_that_is_not_there_is_a_problem() -> None:
    assert probes.run_computation("torch", (), python="/nonexistent/python", timeout=5).problem


def test_a_command_has_a_time_limit() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        probes.run_command(["sleep", "60"], timeout=0.2)


def test_a_hub_without_http_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        seen, skew = probes.read_hub(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert (seen.ok, skew) == (False, None)


def test_a_journal_that_hangs_is_left_for_the_ring_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl = tmp_path / "journalctl"
    journalctl.write_text("#!/bin/sh\nexec sleep 60\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(probes, "COMMAND_TIMEOUT", 0.2)
    log = probes.read_kernel_log()
    assert log.source == "/dev/kmsg" or log.problem


def test_a_proxy_is_asked_whether_it_answers() -> None:
    assert read_proxy({"PATH": "/bin"}) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"http://user:secret@127.0.0.1:{port}", f"127.0.0.1:{port}"):
            answer = read_proxy({"HTTPS_PROXY": address})
            assert answer == ProbeAnswer(True, f"HTTPS_PROXY: 127.0.0.1:{port} answers")
    gone = read_proxy({"https_proxy": f"http://user:secret@127.0.0.1:{port}"})
    assert gone is not None
    assert (gone.ok, "secret" in gone.text) == (False, False)
    wrong = read_proxy({"HTTP_PROXY": "http://proxy:port"})
    assert wrong is not None
    assert wrong.ok is False
