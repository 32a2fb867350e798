"""One input of the comparison: token ids, padding, images, and whether it is a part of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ci.equivalence.trace_compare import WHOLE_BATCH, BatchSlice
from ci.subjects.images import Images


@dataclass(frozen=True)
class InputCase:
    """One input: ids int64 (B, T), mask int64 (B, T) or None, and what each row is.

    A case that is part of another, `part_of` by its slice `part`, has no expected trace of its own: it must equal that
    part of the other's. Where it has `images`, each token of the id `image_token` stands for a patch.
    """

    name: str
    ids: Tensor
    mask: Tensor | None = None
    rows: tuple[str, ...] = ()
    part_of: str = ""
    part: BatchSlice = WHOLE_BATCH
    images: Images | None = None
    image_token: int = -1

    @property
    def keep(self) -> Tensor:
        """Bool (B, T): the real tokens."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask.bool()

    @property
    def image_tokens(self) -> Tensor | None:
        """Bool (B, T): the tokens that stand for images; None where it has none."""
        return None if self.images is None else self.ids == self.image_token
