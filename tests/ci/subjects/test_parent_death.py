"""A process that ends with its parent: killed with it, and at once where the parent is gone."""

from __future__ import annotations

import os
import subprocess
import sys

from ci.subjects.parent_death import end_with_parent

CHILD = "import time; time.sleep(600)"
PARENT = f"""
import os, subprocess, sys
from functools import partial
from ci.subjects.parent_death import end_with_parent
subprocess.Popen([sys.executable, "-c", {CHILD!r}], preexec_fn=partial(end_with_parent, os.getpid()))
os.kill(os.getpid(), 9)
"""


def test_a_killed_parent_takes_its_child_along() -> None:
    """The child holds the pipe of errors; it is closed when the child is gone, not 600 seconds later."""
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, timeout=120, check=False)
    assert done.returncode == -9


def test_a_child_whose_parent_is_another_process_ends() -> None:
    child = os.fork()
    if not child:
        end_with_parent(os.getppid() + 1)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
