"""Tables for a terminal that never break a word: fewer columns, then wrapped cells, then one block a row.

A command is wrapped with a backslash at each line's end, so that it can be pasted as it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, ConsoleOptions, RenderResult

GAP = 2
"""Characters between two columns: one of padding, one of the box."""
INDENT = 3


@dataclass(frozen=True)
class Column:
    """A column; those with the largest `drop` are left out first where a table is too wide, those with 0 never.

    A `whole` one keeps each of its cells on one line, as long as there are columns.
    """

    title: str
    drop: int = 0
    align: Literal["left", "right"] = "left"
    whole: bool = False


@dataclass(frozen=True)
class FittingTable:
    """Rows of texts, shown in the first of several layouts that fits the terminal without breaking a word."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Text]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the layout for the width of the terminal."""
        chosen = self.choose_columns(options.max_width)
        if chosen:
            yield self._make_grid(chosen)
        else:
            yield from self._make_blocks()

    def choose_columns(self, width: int) -> dict[int, int] | None:
        """Choose the columns that are shown, each with its width; None where only blocks fit.

        As many columns as fit unwrapped; where even the fewest do not, as many as fit wrapped between words.
        """
        natural, words = self._measure(cell_len), self._measure(_measure_longest_word)
        least = [full if one.whole else word for one, full, word in zip(self.columns, natural, words, strict=True)]
        leaving = sorted((i for i, one in enumerate(self.columns) if one.drop), key=lambda i: -self.columns[i].drop)
        sets = [
            [i for i in range(len(self.columns)) if i not in leaving[:left_out]] for left_out in range(len(leaving) + 1)
        ]
        for needed in (natural, least):
            for shown in sets:
                room = width - GAP * (len(shown) - 1)
                if sum(needed[i] for i in shown) <= room:
                    widths = _share([least[i] for i in shown], [natural[i] for i in shown], room)
                    return dict(zip(shown, widths, strict=True))
        return None

    def _measure(self, measure: Callable[[str], int]) -> list[int]:
        """Measure each column: the largest of its title and its cells."""
        return [
            max([measure(column.title), *(measure(row[at].plain) for row in self.rows)])
            for at, column in enumerate(self.columns)
        ]

    def _make_grid(self, widths: dict[int, int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
        for at, width in widths.items():
            table.add_column(self.columns[at].title, justify=self.columns[at].align, width=width, overflow="fold")
        for row in self.rows:
            table.add_row(*(row[at] for at in widths))
        return table

    def _make_blocks(self) -> RenderResult:
        """Yield one block a row: its first text, and below it each other one after its column's title."""
        for first, *others in self.rows:
            yield first
            for column, text in zip(self.columns[1:], others, strict=True):
                if text.plain.strip():
                    yield Padding(Text.assemble((f"{column.title}: ", "dim"), text), (0, 0, 0, INDENT))


def _measure_longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _share(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Share `room` among columns: each gets its longest word, and of the rest what its longest line lacks."""
    lacking = [most - few for few, most in zip(least, natural, strict=True)]
    spare, wanted = room - sum(least), sum(lacking)
    if spare >= wanted:
        return list(natural)
    return [few + spare * lack // wanted for few, lack in zip(least, lacking, strict=True)]


@dataclass(frozen=True)
class WrappedCommand:
    """A command line that is broken between its words, with a backslash at each line's end.

    Where no terminal shows it, it is one line.
    """

    command: str
    before: str = ""
    indent: int = INDENT

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        width = options.max_width if console.is_terminal else 10**6
        lines, line = [], " " * self.indent + self.before
        for word in _split_words(self.command):
            if line.strip() and cell_len(f"{line} {word} \\") > width:
                lines.append(f"{line} \\")
                line = " " * (self.indent + 2) + word
            else:
                line = f"{line} {word}" if line.strip() else f"{' ' * self.indent}{word}"
        yield Text("\n".join([*lines, line]), no_wrap=True, overflow="ignore")


def _split_words(command: str) -> list[str]:
    """Split a command at the blanks outside of quotes."""
    words, quoted = [""], False
    for char in command:
        quoted ^= char == "'"
        if char == " " and not quoted:
            words.append("")
        else:
            words[-1] += char
    return [word for word in words if word]
