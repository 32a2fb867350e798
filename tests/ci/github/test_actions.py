"""What the runner would read from our outputs and commands, whatever the text is."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.errors import InfrastructureError, RequestError
from ci.github.actions import (
    format_annotation,
    guard_output,
    neutralize_commands,
    pause_commands,
    print_annotation,
    write_outputs,
    write_summary,
)

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
    with pytest.raises(InfrastructureError, match="cannot write for the runner"):
        write_outputs(tmp_path, {"a": "b"})


@given(st.text(), st.text(min_size=1))
def test_an_annotation_is_one_command(message: str, title: str) -> None:
    line = format_annotation("error", message, title=title)
    assert not set(line) & {"\n", "\r"}
    match = re.fullmatch(r"::error title=([^:,]*)::(.*)", line, re.DOTALL)
    assert match
    assert unescaped(match[2]) == message
    assert unescaped(match[1]) == title


def unescaped(text: str) -> str:
    for code, char in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, char)
    return text


COMMANDS = ("error", "add-mask", "set-output", "stop-commands", "group")
IN_ACTIONS = {"GITHUB_ACTIONS": "true"}


def commands_found(text: str) -> list[str]:
    """The commands that the runner would find, line by line, as its ActionCommand.cs reads them."""
    names = "|".join(COMMANDS)
    pattern = re.compile(rf"\s*::({names})( [^:]*)?::|.*##\[({names})( [^]]*)?\]")
    return [line for line in re.split(r"\r\n|\r|\n", text) if pattern.match(line)]


HOSTILE = (
    "::add-mask::hub-tests",
    "\u00a0\t ::error file=a.py::forged",
    "a\r::set-output name=sha::0",
    "x ##[error]forged",
    "###[group]x",
    "::::error::x",
    "##[stop-commands]x\n::stop-commands::x",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_command_is_left_in_neutralized_text(text: str) -> None:
    assert commands_found(text) or text.startswith("::::")
    assert commands_found(neutralize_commands(text)) == []


@given(st.lists(st.sampled_from(["::", "##[", "#", "error", "]", " ", "\n", "\r", "\u2028", "x"])).map("".join))
def test_no_text_keeps_a_command(text: str) -> None:
    safe = neutralize_commands(text)
    assert commands_found(safe) == []
    assert safe.replace("\\", "") == text


def test_ordinary_text_stays_as_it_is() -> None:
    text = "tests/a.py::test_forward[x]: ## heading [link] `std::vector`\n    ok"
    assert neutralize_commands(text) == text


def test_what_is_printed_in_actions_commands_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with guard_output(IN_ACTIONS):
        for text in HOSTILE:
            print(text)
            print(text, file=sys.stderr)
        print("#", "#", "[error]in pieces", sep="")
        print("  ", end="")
        print(":", end="")
        print(":error::in pieces", end="")
        print_annotation("warning", "ours")
    printed = capsys.readouterr()
    assert commands_found(printed.out) == []
    assert "::warning::ours\n" in printed.err
    assert commands_found(printed.err.replace("::warning::ours\n", "")) == []
    assert printed.out.endswith("error::in pieces")


def test_outside_of_actions_nothing_is_changed(capfd: pytest.CaptureFixture[str]) -> None:
    with guard_output({}), pause_commands({}, 1):
        print(HOSTILE[0])
    assert capfd.readouterr().out == HOSTILE[0] + "\n"


def test_only_a_random_token_ends_a_pause(tmp_path: Path) -> None:
    tokens = set()
    for number in range(2):
        path = tmp_path / str(number)
        with path.open("w") as file, pause_commands(IN_ACTIONS, file.fileno()):
            os.write(file.fileno(), b"::stop::\n::error::forged, without an end of line")
        first, *_, last = path.read_text().splitlines()
        assert first.startswith("::stop-commands::")
        assert last == f"::{first.removeprefix('::stop-commands::')}::"
        tokens.add(last)
    assert len(tokens) == 2
