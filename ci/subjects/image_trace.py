"""Records what a vision tower computes: each patch at the token that stands for it, so that a trace has one grid.

A tower's tensors have patches where a decoder's have tokens. Features take the places of image tokens in their order,
row by row, so patch n of a batch is its n-th image token. A tower may run once, or image by image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from ci.subjects.forward import TeacherForcing, TraceRecorder
from ci.tensor_names import IMAGE_EMBEDDINGS, execution_order, scope_of


@dataclass
class ImageRecorder:
    """Keeps the tensors of a tower and its projector until the decoder begins, then writes them scope by scope.

    `tokens` is bool (B, T): the image tokens. With `feed` what follows a tensor reads the other trace's. Without
    `capture_all` only the last tensor of each scope is kept.
    """

    recorder: TraceRecorder
    tokens: Tensor
    capture_all: bool = True
    feed: TeacherForcing | None = None
    _pieces: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of_inputs(
        cls,
        recorder: TraceRecorder,
        token: int | None,
        *,
        capture_all: bool = True,
        feed: TeacherForcing | None = None,
    ) -> ImageRecorder | None:
        """Return the recorder of the tower for inputs whose images stand at `token`; None where there are none."""
        if token is None or recorder.inputs.images is None:
            return None
        return cls(recorder, recorder.inputs.ids == token, capture_all, feed)

    @property
    def count(self) -> int:
        """The number of image tokens."""
        return int(self.tokens.sum())

    def record(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor (patches, …), of all images or of the next ones."""
        if self.capture_all or scope_of(name) == name:
            self._pieces.setdefault(name, []).append(tensor.detach().clone())

    def follow(self, name: str, tensor: Tensor) -> Tensor:
        """Keep the output (patches, …) of a scope, and return what the next one reads."""
        self.record(name, tensor)
        return self.force(name, tensor)

    def force(self, name: str, tensor: Tensor) -> Tensor:
        """Return the other trace's values of the patches that were kept last; without it, the tensor as it is."""
        expected = self.feed.read_image_output(name, self.tokens) if self.feed else None
        if expected is None:
            return tensor
        end = sum(map(len, self._pieces[name]))
        forced = expected[end - len(tensor) : end]
        return forced.to(tensor) if forced.shape == tensor.shape else tensor

    def finish(self, embeddings: Tensor) -> None:
        """Write each scope, then the decoder's input (B, T, hidden) or (B * T, hidden) at the image tokens alone.

        Left out is a tensor without one patch for each image token, and a whole scope if that tensor is its last.
        """
        joined = {name: torch.cat(pieces) for name, pieces in self._pieces.items()}
        complete = {name: tensor for name, tensor in joined.items() if len(tensor) == self.count}
        self._pieces.clear()
        names = [name for name in sorted(complete, key=execution_order) if scope_of(name) in complete]
        for _, group in groupby(names, key=scope_of):
            for name in group:
                self.recorder.record(name, self._place(complete[name]))
            self.recorder.flush()
        wide = embeddings.reshape(*self.tokens.shape, -1)
        self.recorder.record(IMAGE_EMBEDDINGS, self._place(wide[self.tokens]))
        self.recorder.flush()

    def _place(self, patches: Tensor) -> Tensor:
        placed = patches.new_zeros(*self.tokens.shape, *patches.shape[1:])
        placed[self.tokens] = patches
        return placed
