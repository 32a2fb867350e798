"""Tables and commands at 60, 80 and 120 columns: no word is broken, and nothing is wider than the terminal."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from ci.report.terminal import render_terminal
from ci.report.text_table import Column, FittingTable, WrappedCommand
from tests.ci.report import samples

WIDTHS = (60, 80, 120)
RULES = {"─", "\\"}


def render(shown: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(text: str) -> set[str]:
    return {word.rstrip(":") for word in text.split() if not set(word) <= RULES}


def find_broken_words(shown: RenderableType, width: int) -> set[str]:
    """Returns the words at this width that are none at a width where everything fits."""
    return words(render(shown, width)) - words(render(shown, 10_000))


def make_table(*rows: tuple[str, ...]) -> FittingTable:
    columns = (Column("model"), Column("test"), Column("error", whole=True, align="right"), Column("time", 1))
    return FittingTable(columns, [[Text(cell) for cell in row] for row in rows])


ROW = ("mixtral", "moe_implementation dropless and more words", "4,000 x", "12 s")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["passing", "failing", "mixed", "crashed", "neutral"])
def test_a_run_is_shown_without_a_broken_word(name: str, width: int) -> None:
    shown = render_terminal(getattr(samples, name)())
    assert not find_broken_words(shown, width)
    assert max(len(line) for line in render(shown, width).splitlines()) <= width


def test_a_broken_word_would_be_seen() -> None:
    folded = Text("a forward_equivalence b", overflow="fold")
    assert find_broken_words(folded, 12) == {"forward_equi", "valence"}


def test_columns_go_before_words_wrap() -> None:
    table = make_table(ROW)
    assert table.choose_columns(80) == {0: 7, 1: 42, 2: 7, 3: 4}
    assert table.choose_columns(63) == {0: 7, 1: 42, 2: 7}, "without the time every row is one line"
    wrapped = table.choose_columns(44)
    assert wrapped is not None
    assert set(wrapped) == {0, 1, 2, 3}, "where cells wrap anyway, all columns are there"
    assert sum(wrapped.values()) + 6 <= 44
    assert table.choose_columns(30) is None


def test_where_no_column_fits_each_row_is_a_block() -> None:
    text = render(make_table(ROW, ("llama", "conversion", "", "1 s")), 30)
    assert text.splitlines()[0].rstrip() == "mixtral"
    assert "   error: 4,000 x" in text
    assert "error: \n" not in text, "an empty cell has no line"
    assert words(text) == words(" ".join(ROW)) | words("llama conversion 1 s") | {"test", "error", "time"}


def test_a_command_can_be_pasted_as_it_is_shown() -> None:
    command = "hub-tests run mixtral --layers 2 --subject-path='/a b/c' --device cuda --registry=/srv/models.toml"
    text = render(WrappedCommand(command, "reproduce:"), 40)
    assert len(text.splitlines()) > 2
    assert max(map(len, text.splitlines())) <= 40
    assert shlex.split(text.replace("reproduce:", "").replace("\\\n", " ")) == shlex.split(command)
    piped = io.StringIO()
    Console(file=piped, width=40).print(WrappedCommand(command, "reproduce:"), crop=False)
    assert piped.getvalue() == f"   reproduce: {command}\n"
