"""Joins the parts of a hidden state that ranks and micro-sequences hold, by what Fast-LLM cuts in each layout.

    tensor ranks            cut query, key and value by heads, context by features, logits by words; they copy the rest
    with sequence_tensor    the rest is cut by tokens
    sequence-data ranks     cut everything by tokens, but rank r holds the keys and values of all tokens up to its last
    micro-sequences         do the same one after another on each rank

Fast-LLM's own description of a tensor is not used: under sequence-tensor parallelism it is wrong for some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ci.errors import SubjectError
from ci.tensor_names import CONTEXT, KEY, LOGITS, QUERY, VALUE, operation_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ci.layouts import Layout

CUT_BY_COLUMNS = frozenset({QUERY, KEY, VALUE, CONTEXT, LOGITS})
GROWING = frozenset({KEY, VALUE})
"""What holds everything up to the last token of its part."""
COPIES_DIFFER = 1e-3
"""Relative L2 difference of copies that no order of additions explains."""


def join_parts(name: str, parts: Mapping[tuple[int, int], Sequence[Tensor]], layout: Layout) -> Tensor:
    """Return the full tensor (tokens, …) of a name.

    `parts` maps (sequence-data rank, tensor rank) to that rank's micro-sequences, in order.
    """
    operation = operation_of(name)
    whole = {place: _join_in_order(operation, micro) for place, micro in parts.items()}
    by_sequence = [
        _join_tensor_ranks(name, [whole[sequence, tensor] for tensor in range(layout.tensor)], layout)
        for sequence in range(layout.sequence_data)
    ]
    return _join_in_order(operation, by_sequence)


def _join_in_order(operation: str, parts: Sequence[Tensor]) -> Tensor:
    return parts[-1] if operation in GROWING or len(parts) == 1 else torch.cat(list(parts))


def _join_tensor_ranks(name: str, parts: Sequence[Tensor], layout: Layout) -> Tensor:
    if operation_of(name) in CUT_BY_COLUMNS:
        return torch.cat(list(parts), dim=1)
    if layout.sequence_tensor:
        return torch.cat(list(parts))
    for rank, part in enumerate(parts[1:], start=1):
        difference = (part.double() - parts[0].double()).norm() / parts[0].double().norm().clamp_min(1e-300)
        if not float(difference) <= COPIES_DIFFER:
            raise SubjectError(
                f"Fast-LLM, layout {layout.name}: tensor ranks 0 and {rank} should hold the same {name}, "
                f"and differ by {float(difference):.2g}"
            )
    return parts[0]


def slice_block_input(full: Tensor, part: tuple[int, int], layout: Layout, places: tuple[int, int]) -> Tensor:
    """Return a rank's part of a block's input (tokens, hidden): the inverse of joining.

    `part` is the micro-sequence and their number, `places` the ranks on the sequence-data and the tensor axis.
    """
    tokens = full.chunk(part[1])[part[0]].chunk(layout.sequence_data)[places[0]]
    return tokens.chunk(layout.tensor)[places[1]] if layout.sequence_tensor else tokens
