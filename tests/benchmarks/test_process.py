"""The cost of a process is its own processor time, and a failure is not a measurement."""

from __future__ import annotations

import pytest

from benchmarks._process import measure_process


def test_the_cost_is_processor_time_and_the_output() -> None:
    idle = measure_process(["-c", "import time; time.sleep(0.5); print('slept')"])
    busy = measure_process(["-c", "import time\nwhile time.process_time() < 0.5: pass"])
    assert idle.output == "slept\n"
    assert 0 < idle.cpu < 0.5 <= busy.cpu


def test_a_process_that_fails_is_not_measured() -> None:
    with pytest.raises(SystemExit, match="exit code 3"):
        measure_process(["-c", "raise SystemExit(3)"])
