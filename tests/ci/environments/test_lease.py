"""What a living process uses is not removed; a dead one leaves nothing behind that would have to be cleaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.environments.lease import claim, lease

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ci.environments.lease import lease
with lease(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "environment.json"
    path.write_text("{}")
    path.chmod(0o444)
    return path


@pytest.fixture
def holder(manifest: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lease."""
    command = [sys.executable, "-I", "-c", HOLD, str(manifest), str(ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_lease_of_a_living_process_holds_off_removal(manifest: Path, holder: subprocess.Popen[str]) -> None:
    with lease(manifest) as held, claim(manifest) as free:
        assert (held, free) == (True, False), "beside another lease"
    with claim(manifest) as free:
        assert not free
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with claim(manifest) as free:
        assert free
    assert [path.name for path in manifest.parent.iterdir()] == [manifest.name], "nothing is written"


def test_what_was_removed_meanwhile_is_not_held(manifest: Path) -> None:
    with claim(manifest) as free:
        assert free
        manifest.rename(manifest.with_name("removed"))
        manifest.write_text("{}")
        with lease(manifest) as held:
            assert held, "the new one"
    manifest.unlink()
    with lease(manifest) as held, claim(manifest) as free:
        assert (held, free) == (False, False)


def test_a_lease_that_waits_for_removal_finds_nothing(manifest: Path) -> None:
    with claim(manifest) as free:
        assert free
        command = [sys.executable, "-I", "-c", HOLD, str(manifest), str(ROOT)]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.5)
        manifest.unlink()
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "False\n"
    waiting.kill()
    waiting.wait()
    waiting.stdout.close()
