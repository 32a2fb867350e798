"""What the runner would read from our outputs and commands, whatever the text is."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.errors import InfrastructureError, RequestError
from ci.github.actions import (
    format_annotation,
    guard_output,
    neutralize_commands,
    print_annotation,
    write_outputs,
    write_summary,
)

if TYPE_CHECKING:
    from pathlib import Path


def runner_reads(text: str) -> dict[str, str]:
    """Outputs as the runner's FileCommandManager reads them: heredocs only, lines end with a newline."""
    outputs, lines = {}, iter(text.split("\n"))
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
        outputs[name] = "\n".join(value)
    return outputs


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
    with guard_output({}):
        print(HOSTILE[0])
    assert capfd.readouterr().out == HOSTILE[0] + "\n"


REGISTERED = (*COMMANDS, "warning", "notice", "set-env", "add-path", "save-state", "debug", "endgroup", "echo")
DOTNET_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class Runner:
    """The runner's side of one stream, after ActionCommand.cs, ActionCommandManager.cs and .NET's StreamReader."""

    def __init__(self) -> None:
        self.carried_out: list[str] = []
        self._stop_token: str | None = None

    def read(self, stream: bytes) -> list[str]:
        """Carry out the commands of a whole stream and return them."""
        utf_16 = stream[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = stream.decode("utf-16" if utf_16 else "utf-8-sig", errors="replace")
        for line in re.split("\r\n|\r|\n", text):
            command = self._parse(line.lstrip(DOTNET_SPACE)) or self._parse_old(line)
            if command:
                self._process(*command)
        return self.carried_out

    def _known(self, info: str) -> bool:
        name = info.split(" ")[0].casefold()
        return name in REGISTERED or (self._stop_token is not None and name == self._stop_token.casefold())

    def _parse(self, line: str) -> tuple[str, str] | None:
        if not line.startswith("::") or (end := line.find("::", 2)) < 0 or not self._known(line[2:end]):
            return None
        return line[2:end].split(" ")[0], line[end + 2 :]

    def _parse_old(self, line: str) -> tuple[str, str] | None:
        begin = line.find("##[")
        end = line.find("]", begin) if begin >= 0 else -1
        if end < 0 or not self._known(line[begin + 3 : end]):
            return None
        return line[begin + 3 : end].split(" ")[0], line[end + 1 :]

    def _process(self, name: str, data: str) -> None:
        if self._stop_token is not None:
            self._stop_token = None if name.casefold() == self._stop_token.casefold() else self._stop_token
        elif name.casefold() == "stop-commands":
            self._stop_token = data
        else:
            self.carried_out.append(name)


@pytest.mark.parametrize(
    "text", ["::error::x", " \u3000::ERROR file=a::x", "a\r::add-mask::x", "x ##[group]x", "\ufeff::error::x"]
)
def test_the_simulated_runner_carries_out_commands(text: str) -> None:
    assert Runner().read(text.encode())
    assert Runner().read(b"\xff\xfe" + "::error::x".encode("utf-16-le"))


PIECES = st.one_of(
    st.sampled_from(
        ["::", ":", "##[", "##", "#", "[", "]", " ", "\n", "\r", "\r\n", "\0", "\x1b[0m", "\x85", "\u2028", "\u200b"]
    ),
    st.sampled_from(
        ["\ufeff", "\xad", "\v", "\f", "\x1c", "\xa0", "\u3000", "\udcff\udcfe", "\udcff", ":\0", "\\", "%0A", "x"]
    ),
    st.sampled_from([*REGISTERED, "ERROR", "error file=a", "stop-commands::x", "::x::", "::error::x", "##[error]x"]),
    st.text(max_size=3),
)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(PIECES, st.booleans()), max_size=20), st.sampled_from(["strict", "surrogateescape"]))
def test_no_split_of_any_text_is_carried_out(pieces: list[tuple[str, bool]], errors: str) -> None:
    """Pieces go to stdout or stderr in any order, and each may end anywhere in a command."""
    streams = [io.BytesIO(), io.BytesIO()]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (io.TextIOWrapper(stream, "utf-8", errors, newline="\n") for stream in streams)
    try:
        with guard_output(IN_ACTIONS):
            for piece, on_stderr in pieces:
                (sys.stderr if on_stderr else sys.stdout).write(piece)
                sys.stdout.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        written = [stream.getvalue() for stream in streams]
    finally:
        sys.stdout, sys.stderr = before
    assert [Runner().read(stream) for stream in written] == [[], []]


def test_bytes_have_no_way_around_the_guard(capsys: pytest.CaptureFixture[str]) -> None:
    with guard_output(IN_ACTIONS):
        assert not hasattr(sys.stdout, "buffer")
        with pytest.raises((OSError, io.UnsupportedOperation)):
            sys.stdout.fileno()
        with pytest.raises(TypeError):
            sys.stdout.write(b"::error::x")  # type: ignore[arg-type]
