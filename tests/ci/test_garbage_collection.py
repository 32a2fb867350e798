"""The collector skips what imports made, and still frees what is made later."""

from __future__ import annotations

import subprocess
import sys

WORK = """
import gc, sys, weakref
from types import ModuleType
from ci.garbage_collection import leave_imports_alone


class Model:
    def __init__(self):
        self.self = self


def collects():
    return sum(one["collections"] for one in gc.get_stats())


before = collects()
with leave_imports_alone():
    library = [[] for _ in range(100_000)]
    sys.modules["torch"] = ModuleType("torch")
assert collects() == before, "it collected during the imports"
assert gc.isenabled() and gc.get_freeze_count() >= 100_000
first = Model()
with leave_imports_alone():
    pass
gone = weakref.ref(first)
del first
gc.collect()
assert gone() is None, "a model that was loaded between two imports was exempt"
"""


def test_imports_are_exempt_and_models_are_not() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
