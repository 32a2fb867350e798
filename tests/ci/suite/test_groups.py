"""One worker owns a model: what `--dist loadgroup` promises must hold with the pytest and pytest-xdist installed."""

import re
import subprocess
import sys
from pathlib import Path

TESTS = """
import os, pytest
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("model", [pytest.param(m, marks=pytest.mark.xdist_group(m)) for m in ("a", "b", "c")])
def test_x(model, number):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(f"{model} {os.environ['PYTEST_XDIST_WORKER']}\\n")
"""


def test_a_models_tests_share_a_worker(tmp_path: Path) -> None:
    (tmp_path / "test_groups.py").write_text(TESTS)
    words = ["-m", "pytest", "-n", "2", "--dist", "loadgroup", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environ = {"SEEN": str(tmp_path / "seen"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    pairs = set(re.findall(r"(\w) (\w+)", (tmp_path / "seen").read_text()))
    assert len(pairs) == 3, f"a group was split between workers: {sorted(pairs)}"
