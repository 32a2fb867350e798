"""Gate, plan and report install from the base dependencies alone: torch and transformers must not come with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ci

HEAVY = ("torch", "transformers", "numpy", "pytest")


def modules() -> list[str]:
    root = Path(ci.__file__).parent
    rooms = ("report", "github", "verbs", "cli")
    light = [root / "plan.py", *(path for room in rooms for path in root.glob(f"{room}/*.py"))]
    return [".".join(("ci", *path.relative_to(root).with_suffix("").parts)) for path in light]


def test_light_modules_import_nothing_heavy() -> None:
    names = modules()
    assert {"ci.plan", "ci.report.build_results", "ci.report.html_page"} <= set(names)
    block = f"sys.modules.update(dict.fromkeys({HEAVY!r}))"  # importing one of them would raise ImportError
    work = f"import sys, importlib; {block}; [importlib.import_module(name) for name in {names!r}]"
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
