"""Every benchmark that a document names exists, and every name has figures to show."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import LONG, NAMES, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", [*NAMES, *LONG])
def test_a_name_is_a_module_with_figures(name: str) -> None:
    spec = find_spec(f"benchmarks.{name}")
    assert spec
    assert spec.origin
    assert "\ndef figures(" in Path(spec.origin).read_text(encoding="utf-8")


def test_what_the_documents_name_is_there() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])
    assert {*re.findall(r"python -m benchmarks ([a-z_]+)", text)} <= {*NAMES, *LONG}
    assert all(find_spec(name) for name in re.findall(r"python -m (benchmarks\.[a-z_]+)", text))


def test_an_unknown_name_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["speed"])
    assert "unknown benchmark speed; there are startup, " in capsys.readouterr().err
