"""What the documents say of the code, held against the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from ci import __main__ as cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "runner-setup/README.md")


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def test_the_table_of_dependencies_is_what_is_declared() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| (.+?) \|$", text("README.md").split("## Dependencies")[1], re.MULTILINE)
    told = {
        (name, extra)
        for names, extras in rows[1:]
        for name in names.split(", ")
        for extra in extras.replace("`", "").split(", ")
    }
    project = tomllib.loads(text("pyproject.toml"))["project"]
    declared = {"base": project["dependencies"], **project["optional-dependencies"]}
    assert told == {(re.split("[<>=]", word)[0], extra) for extra, words in declared.items() for word in words}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text(document)):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_the_options_that_are_told(document: str) -> None:
    root: Any = typer.main.get_command(cli.app)
    for line in re.findall(r"(?<![\w/-])hub-tests ([a-z][^`#\n)]*)", text(document)):
        words = line.split()
        if words[0] not in root.commands:
            continue  # prose: "hub-tests is the CI service"
        command = root.commands[words[0]]
        if words[0] == "cache":
            command = command.commands[words[1]]
        told = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert told <= options(command), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_has_the_targets_that_are_told(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text(document), re.MULTILINE)) <= targets


def test_every_room_of_the_house_is_in_the_guide() -> None:
    told = set(re.findall(r"`((?:ci/|runner-setup/|tests/|benchmarks/)[\w/.]*)`", text("CONTRIBUTING.md")))
    assert not {path for path in told if not (ROOT / path).exists()}
    rooms = {f"ci/{path.parent.name}/" for path in (ROOT / "ci").glob("*/__init__.py")}
    assert rooms <= told
