from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ci.report.truncate_markdown import Block, count_bytes, count_characters, essential_blocks_fit, join_blocks

blocks = st.lists(st.builds(Block, st.text(min_size=1, max_size=60), st.integers(0, 5)), max_size=20)


@settings(deadline=None, max_examples=150)
@given(blocks, st.integers(0, 2000), st.sampled_from([count_characters, count_bytes]))
def test_the_limit_is_kept_if_the_essential_blocks_fit(given_blocks: list[Block], limit: int, size: object) -> None:
    if essential_blocks_fit(given_blocks, limit, size):  # type: ignore[arg-type]
        text = join_blocks(given_blocks, limit, size)  # type: ignore[arg-type]
        assert size(text) <= limit  # type: ignore[operator]
        assert all(block.text in text for block in given_blocks if block.rank == 0)


@settings(deadline=None, max_examples=100)
@given(blocks)
def test_nothing_is_left_out_if_everything_fits(given_blocks: list[Block]) -> None:
    text = join_blocks(given_blocks, 10_000)
    assert text == "\n\n".join(block.text for block in given_blocks) + "\n"


def test_the_highest_rank_is_left_out_first_and_its_last_block_first() -> None:
    made = [Block("zero"), Block("a" * 150, 2), Block("b" * 150, 1), Block("c" * 150, 2)]
    assert "c" * 150 not in join_blocks(made, 450)
    assert "a" * 150 in join_blocks(made, 450)
    assert "a" * 150 not in join_blocks(made, 320)
    assert "b" * 150 in join_blocks(made, 320)
    assert "zero" in join_blocks(made, 0)


def test_the_number_of_left_out_parts_is_named() -> None:
    made = [Block("zero"), Block("a" * 400, 1), Block("b" * 400, 1)]
    assert "_1 part was left out" in join_blocks(made, 700)
    assert "_2 parts were left out" in join_blocks(made, 300)


def test_sizes() -> None:
    assert (count_characters("aé🎉"), count_bytes("aé🎉")) == (4, 7)
    assert (count_characters("ab"), count_bytes("ab")) == (2, 2)
