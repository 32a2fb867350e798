"""A process is told apart from others by its kernel, its PID namespace, its number and its start."""

from __future__ import annotations

import os
import subprocess
import sys

from ci.hub.process_identity import describe_namespace, process_exists, read_boot_id, read_start_time


def test_a_process_is_seen_while_it_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert process_exists(child.pid)
        assert read_start_time(child.pid) >= read_start_time(os.getpid()) > 0
        child.kill()
    assert not process_exists(child.pid)
    assert read_start_time(child.pid) == 0


def test_the_namespace_names_the_kernel() -> None:
    assert read_boot_id()
    assert read_boot_id() in describe_namespace()
