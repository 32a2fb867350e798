"""The engines that are here, and what is said of one that is not."""

from __future__ import annotations

from pathlib import Path

from ci.chat_templates import engines
from ci.chat_templates.engines import MODULES_VARIABLE, PACKAGE, find_engines


def test_jinja2_is_always_here() -> None:
    first, _ = find_engines({})
    assert first.absent == ""
    assert Path(first.words[-1]).is_file()


def test_the_other_engine_is_found_where_the_variable_says(tmp_path: Path) -> None:
    package = tmp_path / PACKAGE
    package.mkdir(parents=True)
    (package / "package.json").write_text("{}")
    found = engines._find_huggingface_jinja({MODULES_VARIABLE: str(tmp_path)}, lambda _: "/opt/node/bin/node")
    assert found.absent == ""
    assert found.words[0] == "/opt/node/bin/node"
    assert found.words[-1] == str(package)
    assert Path("/opt/node/bin") in found.readable


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    without_node = engines._find_huggingface_jinja({}, lambda _: None)
    assert without_node.absent == "node is not installed"
    without_package = engines._find_huggingface_jinja({MODULES_VARIABLE: str(tmp_path)}, lambda _: "/usr/bin/node")
    assert without_package.absent == "`npm ci` was not run in ci/chat_templates"
