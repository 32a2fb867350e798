"""The table of docs/security.md names every attack that goes through the engine, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.attack_cases import IN_JOBS, ON_A_SMALL_DISK

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| [^|]+ \| [^|]+ \| ((?:engine|run)\b[^|]*) \|$", re.MULTILINE)


def test_the_table_of_attacks_is_that_of_the_tests() -> None:
    rows = ROW.findall((ROOT / "docs/security.md").read_text(encoding="utf-8"))
    named = {name for row in rows for name in re.findall(r"\[([\w-]+)\](?!\()", row)}
    functions = set(re.findall(r"^def (test_\w+)", (ROOT / "tests/e2e/test_attacks.py").read_text(), re.MULTILINE))
    assert {name for name in named if not name.startswith("test_")} == {*IN_JOBS, *ON_A_SMALL_DISK}
    assert {name for name in named if name.startswith("test_")} <= functions
    assert len(named) >= 30
