"""docs/numerics.md and the constants of the verdict say the same, in both directions."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ci.equivalence import tolerances

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
CONSTANTS = {name: value for name, value in vars(tolerances).items() if name.isupper() and not name.startswith("_")}
CONSTANTS = {n: v for n, v in CONSTANTS.items() if n not in {"ROUTER_LOGITS", "TOP_EXPERTS", "TYPE_CHECKING"}}
"""The module's own: what it imports is not a constant of the verdict."""


def rows(names: str) -> dict[str, str]:
    """Name → value cell of every table row that begins with a name of the form `names`."""
    return dict(re.findall(rf"^\| `({names})` \| ([^|]+?) \|", DOCUMENT, re.MULTILINE))


def number(text: str) -> float:
    """1e-3, 2^-12 or 1/10 as a float."""
    if "^" in text:
        base, exponent = text.split("^")
        return float(base) ** int(exponent)
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def value(cell: str) -> Any:
    """A number, several numbers, or a number by name, as the table writes them."""
    parts = [part.split() for part in cell.split(", ")]
    if len(parts[0]) == 2:
        return {key: number(text) for key, text in parts}
    numbers = tuple(number(text) for (text,) in parts)
    return numbers if len(numbers) > 1 else numbers[0]


def test_every_constant_is_in_the_table_with_its_value() -> None:
    assert {name: value(cell) for name, cell in rows("[A-Z0-9_]+").items()} == CONSTANTS


@pytest.mark.parametrize("name", rows(r"[a-z_]+\.[A-Z0-9_]+"))
def test_a_number_of_another_module_has_the_value_that_is_told(name: str) -> None:
    module, _, constant = name.partition(".")
    told = value(rows(r"[a-z_]+\.[A-Z0-9_]+")[name])
    assert getattr(import_module(f"ci.equivalence.{module}"), constant) == told


def test_no_constant_is_named_that_does_not_exist() -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9_]{3,})`", DOCUMENT))
    assert named <= set(CONSTANTS)


def test_every_constant_is_explained_where_the_rule_is() -> None:
    prose = DOCUMENT.split("## 10. The constants")[0]
    unexplained = {name for name in CONSTANTS if name not in prose}
    assert unexplained == {"RMS_EPSILON", "SPECIFICATION_LIMITS"}, "these two are reported only"


def test_every_constant_has_a_docstring() -> None:
    source = Path(str(tolerances.__file__)).read_text(encoding="utf-8")
    for name in CONSTANTS:
        assert re.search(rf'^{name}\b[^\n]*=(?:[^\n]*|.*?^}})\n"""', source, re.MULTILINE | re.DOTALL), name


def test_no_other_module_of_the_room_has_a_number_that_decides() -> None:
    pattern = re.compile(r"^([A-Z][A-Z0-9_]*)(?:: [^=]+)? = ([0-9.]+(?:e-?[0-9]+)?)$", re.MULTILINE)
    elsewhere = {
        (path.stem, name)
        for path in (ROOT / "ci" / "equivalence").glob("*.py")
        if path.stem != "tolerances"
        for name, _ in pattern.findall(path.read_text(encoding="utf-8"))
    }
    told = {tuple(name.split(".")) for name in rows(r"[a-z_]+\.[A-Z0-9_]+")}
    reporting = {("case_result", "MAX_MEASURES"), ("error_signature", "TINY"), ("image_inputs", "GAP")}
    reporting |= {("kept_trace", "ALIGNMENT")}
    reporting |= {("companions", limit) for limit in ("MAX_ROWS", "MAX_TEXT")}
    reporting |= {("companion_keys", limit) for limit in ("MAX_KEYS", "MAX_READ_KEYS", "MAX_DEPTH")}
    assert elsewhere <= told | reporting


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", DOCUMENT):
        assert (ROOT / "docs" / link.partition("#")[0]).exists(), link
