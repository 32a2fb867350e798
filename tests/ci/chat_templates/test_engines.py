"""The engines that are here, and what is said of one that is not."""

from __future__ import annotations

from pathlib import Path

from ci.chat_templates import engines
from ci.chat_templates.engines import MODULES_VARIABLE, PACKAGE, describe_second_engine, find_engines


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


def test_the_second_engine_is_named_with_its_version_or_why_it_is_not_here(tmp_path: Path) -> None:
    environ = {MODULES_VARIABLE: str(tmp_path)}
    assert describe_second_engine(environ, lambda _: None) == ("", "node is not installed")
    assert describe_second_engine(environ, lambda _: "/usr/bin/node") == (
        "",
        "`npm ci` was not run in ci/chat_templates",
    )
    package = tmp_path / PACKAGE
    package.mkdir(parents=True)
    for content, said in (('{"version": "0.5.11"}', (f"{PACKAGE} 0.5.11", "")), ("{}", None), ("x", None)):
        (package / "package.json").write_text(content)
        damaged = ("", f"{PACKAGE} is damaged: its package.json names no version")
        assert describe_second_engine(environ, lambda _: "/usr/bin/node") == (said or damaged)
