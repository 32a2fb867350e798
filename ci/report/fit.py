"""Keeping a text within a limit: whole blocks are left out in a fixed order, so no fence or fold is ever cut open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEFT_OUT = "_{count} left out to keep within the limit of this place; the report in the run's artifacts has them all._"
_RESERVE = len(LEFT_OUT) + 24


@dataclass(frozen=True)
class Block:
    """A self-contained piece of Markdown. Rank 0 stays; the highest rank goes first, within a rank the last one."""

    text: str
    rank: int = 0


def characters(text: str) -> int:
    """Length as GitHub counts a comment's body: UTF-16 units, the strictest reading of "characters"."""
    return len(text) + sum(char > "\uffff" for char in text) if not text.isascii() else len(text)


def utf8(text: str) -> int:
    """Length in bytes, as the step summary counts."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def fit(blocks: Sequence[Block], limit: int, size: Callable[[str], int] = characters) -> str:
    """The blocks, one blank line between them, in at most `limit` by `size`; rank 0 must fit by itself."""
    sizes = [size(block.text) + 2 for block in blocks]
    total, kept = sum(sizes), [True] * len(blocks)
    if total > limit:
        total += _RESERVE
        for index in sorted(range(len(blocks)), key=lambda i: (-blocks[i].rank, -i)):
            if total <= limit or blocks[index].rank == 0:
                break
            kept[index], total = False, total - sizes[index]
    texts = [block.text for block, keep in zip(blocks, kept, strict=True) if keep]
    if not all(kept):
        gone = kept.count(False)
        texts.append(LEFT_OUT.format(count="1 part was" if gone == 1 else f"{gone} parts were"))
    return "\n\n".join(texts) + "\n"


def room(blocks: Sequence[Block], limit: int, size: Callable[[str], int] = characters) -> bool:
    """Whether the blocks of rank 0 fit."""
    return sum(size(block.text) + 2 for block in blocks if block.rank == 0) + _RESERVE <= limit
