"""Keep a Markdown text within a size limit.

Whole blocks are left out in a fixed order, so no code fence and no `<details>` is ever cut in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEFT_OUT = "_{count} left out because of GitHub's size limit. The artifacts of the run contain the full report._"
_RESERVE = len(LEFT_OUT) + 24


@dataclass(frozen=True)
class Block:
    """A complete piece of Markdown.

    Rank 0 always stays. The highest rank is left out first; within a rank, the last block first.
    """

    text: str
    rank: int = 0


def count_characters(text: str) -> int:
    """Return the length in UTF-16 units.

    This is the strictest way to count the "characters" of a GitHub comment.
    """
    return len(text) + sum(char > "\uffff" for char in text) if not text.isascii() else len(text)


def count_bytes(text: str) -> int:
    """Return the length in UTF-8 bytes, as GitHub counts the step summary."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def join_blocks(blocks: Sequence[Block], limit: int, size: Callable[[str], int] = count_characters) -> str:
    """Join the blocks by blank lines, without as many as it takes to fit into `limit`.

    The last block of the highest rank goes first. `size` measures the text. Blocks of rank 0 must fit by themselves.
    """
    sizes = [size(block.text) + 2 for block in blocks]
    total, kept = sum(sizes), [True] * len(blocks)
    if total > limit:
        total += _RESERVE
        by_rank = sorted(range(len(blocks)), key=lambda index: (blocks[index].rank, index))
        for index in reversed(by_rank):
            if total <= limit or blocks[index].rank == 0:
                break
            kept[index], total = False, total - sizes[index]
    texts = [block.text for block, keep in zip(blocks, kept, strict=True) if keep]
    if not all(kept):
        left_out = kept.count(False)
        texts.append(LEFT_OUT.format(count="1 part was" if left_out == 1 else f"{left_out} parts were"))
    return "\n\n".join(texts) + "\n"


def essential_blocks_fit(blocks: Sequence[Block], limit: int, size: Callable[[str], int] = count_characters) -> bool:
    """Return whether the blocks of rank 0 fit into `limit`."""
    return sum(size(block.text) + 2 for block in blocks if block.rank == 0) + _RESERVE <= limit
