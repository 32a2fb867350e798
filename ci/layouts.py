"""Parallel layouts: how many ranks each needs, and what is split over them.

A layout is a variant on the axis "layout". Its name is what a maintainer would call it: `tp2`, `pp2_tied`, `dp2_stp2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LAYOUT_AXIS = "layout"


@dataclass(frozen=True)
class Layout:
    """The degrees of parallelism of one layout, and how a step's documents are divided into micro-batches.

    `ranks` is the product of the tensor, pipeline, data and sequence-data degrees. `micro_batches` documents follow
    one another on each data-parallel rank (gradient accumulation), depth first (one through all stages, then the next)
    or breadth first (all through one stage, then the next). `micro_sequences` cuts each document into that many parts
    that are computed one after another. `separate_tied` asks that embeddings and head lie on different ranks.
    """

    name: str
    tensor: int = 1
    sequence_tensor: bool = False
    pipeline: int = 1
    data: int = 1
    sequence_data: int = 1
    expert: int = 1
    zero_stage: int = 1
    micro_batches: int = 1
    order: Literal["depth", "breadth"] = "depth"
    micro_sequences: int = 1
    separate_tied: bool = False

    @property
    def ranks(self) -> int:
        """Count the processes that the layout needs."""
        return self.tensor * self.pipeline * self.data * self.sequence_data

    @property
    def documents(self) -> int:
        """Count the documents that one step needs: one for each micro-batch of each data-parallel rank."""
        return self.data * self.micro_batches


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("single"),
        Layout("accumulate2", micro_batches=2),
        Layout("breadth2", micro_batches=2, order="breadth"),
        Layout("split2", micro_sequences=2),
        Layout("tp2", tensor=2),
        Layout("stp2", tensor=2, sequence_tensor=True),
        Layout("pp2", pipeline=2, micro_batches=2, order="breadth"),
        Layout("pp2_tied", pipeline=2, micro_batches=2, order="breadth", separate_tied=True),
        Layout("dp2", data=2),
        Layout("zero2", data=2, zero_stage=2),
        Layout("zero3", data=2, zero_stage=3),
        Layout("sdp2", sequence_data=2),
        Layout("ep2", data=2, expert=2),
        Layout("dp2_accumulate2", data=2, micro_batches=2),
        Layout("tp2_split2", tensor=2, micro_sequences=2),
        Layout("dp2_tp2", data=2, tensor=2),
        Layout("dp2_stp2", data=2, tensor=2, sequence_tensor=True),
        Layout("stp2_pp2", tensor=2, sequence_tensor=True, pipeline=2, micro_batches=2, order="breadth"),
        Layout("tp2_zero3", tensor=2, data=2, zero_stage=3),
    )
}
"""Every layout that the suite knows, by name; a subject's offer lists those that it has."""
