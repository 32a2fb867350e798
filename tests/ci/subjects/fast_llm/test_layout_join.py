"""Joining the parts of a hidden state gives what was cut, in every layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ci.errors import SubjectError
from ci.layouts import LAYOUTS
from ci.subjects.fast_llm.layout_join import CUT_BY_COLUMNS, GROWING, join_parts, slice_block_input
from ci.subjects.fast_llm.offer import LAYOUTS_OFFERED
from ci.tensor_names import operation_of

if TYPE_CHECKING:
    from torch import Tensor

    from ci.layouts import Layout

NAMES = (
    "decoder.1.mixer.query",
    "decoder.1.mixer.key",
    "decoder.1.mixer.context",
    "decoder.1.mlp",
    "decoder.1",
    "logits",
)
TOKENS = 16


def cut(name: str, full: Tensor, layout: Layout) -> dict[tuple[int, int], list[Tensor]]:
    """What each rank holds of a tensor (tokens, heads or features, …), by another way than joining."""
    operation, parts = operation_of(name), layout.micro_sequences * layout.sequence_data
    held: dict[tuple[int, int], list[Tensor]] = {}
    for micro in range(layout.micro_sequences):
        for sequence in range(layout.sequence_data):
            index, step = micro * layout.sequence_data + sequence, TOKENS // parts
            begin = 0 if operation in GROWING else index * step
            tokens = full[begin : (index + 1) * step]
            for tensor in range(layout.tensor):
                if operation in CUT_BY_COLUMNS:
                    part = tokens.chunk(layout.tensor, dim=1)[tensor]
                else:
                    part = tokens.chunk(layout.tensor)[tensor] if layout.sequence_tensor else tokens
                held.setdefault((sequence, tensor), []).append(part)
    return held


@pytest.mark.parametrize("layout", LAYOUTS_OFFERED)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_cut_is_joined(name: str, layout: str) -> None:
    full = torch.randn(TOKENS, 4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(join_parts(name, cut(name, full, LAYOUTS[layout]), LAYOUTS[layout]), full)


def test_copies_that_differ_are_an_error_that_names_the_ranks() -> None:
    full = torch.ones(TOKENS, 4)
    with pytest.raises(SubjectError, match=r"tensor ranks 0 and 1 .* the same decoder.0.mlp, .* by 0.5"):
        join_parts("decoder.0.mlp", {(0, 0): [full], (0, 1): [full * 1.5]}, LAYOUTS["tp2"])
    join_parts("decoder.0.mlp", {(0, 0): [full], (0, 1): [full * (1 + 1e-6)]}, LAYOUTS["tp2"])


@pytest.mark.parametrize("name", ["single", "split2", "stp2", "sdp2", "tp2_split2"])
def test_a_forced_input_is_cut_as_a_block_s_output_is(name: str) -> None:
    full, layout = torch.randn(TOKENS, 4), LAYOUTS[name]
    micro = layout.micro_sequences
    parts = {
        (sequence, tensor): [
            slice_block_input(full, (part, micro), layout, (sequence, tensor)) for part in range(micro)
        ]
        for sequence in range(layout.sequence_data)
        for tensor in range(layout.tensor)
    }
    assert torch.equal(join_parts("decoder.0", parts, layout), full)
