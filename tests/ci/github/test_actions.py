"""What the runner would read from our outputs and commands, whatever the text is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.errors import InfrastructureError, RequestError
from ci.github.actions import annotation, unheeded, write_outputs, write_summary

if TYPE_CHECKING:
    from pathlib import Path


def runner_reads(text: str) -> dict[str, str]:
    """Outputs as the runner's FileCommandManager reads them: heredocs only, lines end with a newline."""
    found, lines = {}, iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        name, delimiter = line.split("<<", 1)
        value = []
        for inner in lines:
            if inner == delimiter:
                break
            value.append(inner)
        else:
            raise AssertionError(f"the value of {name} does not end")
        found[name] = "\n".join(value)
    return found


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,10}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_outputs_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("outputs") / "output"
    write_outputs(path, values)
    text = path.read_bytes().decode()
    assert runner_reads(text) == values


def test_a_value_cannot_end_itself(tmp_path: Path) -> None:
    path = tmp_path / "output"
    write_outputs(path, {"first": "a"})
    delimiter = path.read_text().splitlines()[-1]
    write_outputs(path, {"models": f"x\n{delimiter}\nEOF\nsha<<EOF\n0\nEOF"})
    assert set(runner_reads(path.read_text())) == {"first", "models"}


@pytest.mark.parametrize("name", ["a b", "", "a=b", "a<<b", "a\nb"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="cannot name an output"):
        write_outputs(tmp_path / "output", {name: "x"})


def test_too_much_output_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="1 MB a job"):
        write_outputs(tmp_path / "output", {"plan": "x" * 2**20})
    assert not (tmp_path / "output").exists()


def test_summary_is_kept_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    write_summary(path, "# one")
    with pytest.raises(RequestError, match="drops all of it"):
        write_summary(path, "é" * 2**19)
    assert path.read_text() == "# one\n"


def test_unwritable_output_is_infrastructure(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot tell the runner"):
        write_outputs(tmp_path, {"a": "b"})


@given(st.text(), st.text(min_size=1))
def test_an_annotation_is_one_command(message: str, title: str) -> None:
    line = annotation("error", message, title=title)
    assert not set(line) & {"\n", "\r"}
    match = re.fullmatch(r"::error title=([^:,]*)::(.*)", line, re.DOTALL)
    assert match
    assert unescaped(match[2]) == message
    assert unescaped(match[1]) == title


def unescaped(text: str) -> str:
    for code, char in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_untrusted_text_cannot_resume_commands() -> None:
    shown = unheeded("::set-output name=sha::0\n::stop::\n")
    first, *_, last = shown.splitlines()
    assert first.startswith("::stop-commands::")
    assert last == f"::{first.removeprefix('::stop-commands::')}::"
    assert unheeded("x").splitlines()[0] != first
