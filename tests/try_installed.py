"""Try an installed hub-tests against the stand-in Hub: `python -m tests.try_installed BIN/hub-tests [--suite]`.

The program is started in a folder of its own, so that it finds what is installed and never this checkout. With
--suite it also tests a model; it must have been installed with the extra `suite` then. The stand-in needs torch, so
this is started by an interpreter that has it: that of the same environment, or another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.standin.models import repository
from tests.standin.recipes import TINY_REGISTRY
from tests.standin.server import HubServer


def try_installed(program: Path, *, suite: bool) -> list[str]:
    """Return a line for each command that worked. Raises SystemExit with what the first other one said."""
    with HubServer() as hub, tempfile.TemporaryDirectory(prefix="hub-tests-installed.") as folder:
        hub.add("stand-in/llama", repository("stand-in/llama"))
        (Path(folder) / "models.toml").write_text(TINY_REGISTRY, encoding="utf-8")
        done = [_call(program, words, Path(folder), hub.endpoint) for words in list_commands(suite=suite)]
        return [*done, _read_totals(Path(folder) / "out/report.json")] if suite else done


def list_commands(*, suite: bool) -> list[list[str]]:
    """List the command lines to try."""
    registry = ["--registry", "models.toml"]
    commands = [["--help"], ["--version"], ["models"], ["fetch", "tiny", *registry], ["cache", "verify"]]
    run = ["run", "tiny", *registry, "--subject", "reference", "--device", "cpu", "--report", "out"]
    return [*commands, *([run] if suite else [])]


def _call(program: Path, words: list[str], folder: Path, endpoint: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HUB_TESTS", "HF_"))}
    environ |= {"HF_ENDPOINT": endpoint, "HUB_TESTS_CACHE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    command = [str(program.absolute()), *words]
    called = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if called.returncode or not called.stdout.strip():
        said = called.stdout[-2000:] + called.stderr[-2000:]
        raise SystemExit(f"hub-tests {' '.join(words)}: exit code {called.returncode}\n{said}")
    return f"hub-tests {' '.join(words)}: {called.stdout.strip().splitlines()[-1][:100]}"


def _read_totals(path: Path) -> str:
    totals = json.loads(path.read_bytes())["totals"]
    if totals["failed"] or totals["passed"] != totals["tests"]:
        raise SystemExit(f"not every test passed: {totals}")
    return f"{totals['passed']} of {totals['tests']} tests passed"


if __name__ == "__main__":
    print(*try_installed(Path(sys.argv[1]), suite="--suite" in sys.argv[2:]), sep="\n")
