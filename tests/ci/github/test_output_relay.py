"""What a child prints arrives line by line, and commands the runner nothing, whoever of its family writes it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.github import output_relay
from ci.github.output_relay import relay_output
from tests.ci.github.test_actions import PIECES, Runner

ASK = "import os; os.write(1, b'%d' % os.isatty(1))"


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=12).map("".join), st.integers(0, 12), st.integers(1, 3))
def test_no_cut_of_any_text_is_carried_out(text: str, longest: int, size: int) -> None:
    said = text.encode("utf-8", "surrogatepass")
    read, write = os.pipe()
    before, output_relay.MAX_LINE = output_relay.MAX_LINE, longest
    try:
        with os.fdopen(read, "rb") as reader:
            lines = output_relay._Lines(write)
            for begin in range(0, len(said), size):
                lines.add(said[begin : begin + size])
            lines.finish()
            os.write(write, b"::error::ours, after the child\n")
            os.close(write)
            assert Runner().read(reader.read()) == ["error"]
    finally:
        output_relay.MAX_LINE = before


def test_everything_arrives_and_only_commands_change(tmp_path: Path) -> None:
    text = "".join(f"line {number} \N{SNOWMAN}\n" for number in range(20_000)) + "x" * 100_000 + "\n::error::x\nend"
    with (tmp_path / "out").open("wb") as file, relay_output(file.fileno()) as output:
        subprocess.run(["/bin/cat"], input=text.encode(), stdout=output, check=True)
    assert (tmp_path / "out").read_text() == text.replace("::error", "\\::error") + "\n"


def test_a_line_arrives_before_the_child_ends(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file, relay_output(file.fileno()) as output:
        os.write(output, b"first\nsecond, not yet")
        deadline = time.monotonic() + 120
        while path.read_bytes() != b"first\n":
            assert time.monotonic() < deadline, path.read_bytes()
            time.sleep(0.01)
    assert path.read_bytes() == b"first\nsecond, not yet\n"


@pytest.mark.parametrize("loop", ["sleep 0.02", ":"])
def test_what_outlives_the_child_has_lost_its_way(loop: str, tmp_path: Path) -> None:
    """Also where it writes as fast as it can: the end of the child ends the relay."""
    path = tmp_path / "out"
    program = f"(while echo ::error::late; do {loop}; done) & echo $!"
    with path.open("wb") as file:
        with relay_output(file.fileno()) as output:
            subprocess.run(["/bin/sh", "-c", program], stdout=output, stderr=subprocess.DEVNULL, check=True)
        size = path.stat().st_size
        time.sleep(0.2)
        assert path.stat().st_size == size
    assert Runner().read(path.read_bytes()) == []
    pid = next(line for line in path.read_text().splitlines() if line.isdecimal())
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "its pipe is closed"
        time.sleep(0.02)


def test_a_terminal_is_the_childs_own() -> None:
    ours, terminal = pty.openpty()
    with relay_output(terminal) as output:
        assert output == terminal
        subprocess.run([sys.executable, "-c", ASK], stdout=output, check=True)
    assert os.read(ours, 10) == b"1"
    for descriptor in (ours, terminal):
        os.close(descriptor)


def test_a_reader_that_left_does_not_stop_the_child() -> None:
    read, write = os.pipe()
    os.close(read)
    with relay_output(write) as output:
        subprocess.run([sys.executable, "-c", "print('x' * 10**6)"], stdout=output, check=True)
    os.close(write)
