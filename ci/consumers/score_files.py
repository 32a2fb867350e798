"""The files of a consumer: scored tokens and continuations as safetensors. What is read back is checked.

    scores.safetensors          logprobs (B, T), top_ids (B, T, k), top_logprobs (B, T, k), experts (B, T, layers, n)
    continuation.safetensors    ids (B, N), top_ids (B, N, k), top_logprobs (B, N, k)

Log-probabilities are float32 nats. Position t of `logprobs` is that of token t given those before it, and `top_ids` are
the most likely tokens there, best first. The first real token of a row and its padding are not scored: NaN, ids -1.
`experts` int64 are the experts to which the engine sent token t, in no order, where it can say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ci.subjects.failure import SubjectProtocolError

if TYPE_CHECKING:
    from pathlib import Path

SCORES, CONTINUATION = "scores.safetensors", "continuation.safetensors"


@dataclass(frozen=True)
class Scores:
    """Scored tokens: float32 (B, T), int64 and float32 (B, T, k); `experts` int64 (B, T, layers, n) or None."""

    logprobs: Tensor
    top_ids: Tensor
    top_logprobs: Tensor
    experts: Tensor | None = None

    def write(self, directory: Path) -> None:
        """Write the tensors into a new directory."""
        experts = {} if self.experts is None else {"experts": self.experts}
        own = {"logprobs": self.logprobs, "top_ids": self.top_ids, "top_logprobs": self.top_logprobs}
        _write(directory / SCORES, {**own, **experts})


@dataclass(frozen=True)
class Continuation:
    """Continued tokens: ids int64 (B, N), the most likely ones int64 and float32 (B, N, k)."""

    ids: Tensor
    top_ids: Tensor
    top_logprobs: Tensor

    def write(self, directory: Path) -> None:
        """Write the tensors into a new directory."""
        own = {"ids": self.ids, "top_ids": self.top_ids, "top_logprobs": self.top_logprobs}
        _write(directory / CONTINUATION, own)


def make_empty_scores(ids: Tensor, top: int) -> Scores:
    """Make scores of ids (B, T) in which no token is scored yet."""
    rows, length = ids.shape
    return Scores(
        torch.full((rows, length), float("nan")),
        torch.full((rows, length, top), -1, dtype=torch.int64),
        torch.full((rows, length, top), float("nan")),
    )


def make_empty_continuation(rows: int, tokens: int, top: int) -> Continuation:
    """Make continuations without any token yet."""
    return Continuation(
        torch.full((rows, tokens), -1, dtype=torch.int64),
        torch.full((rows, tokens, top), -1, dtype=torch.int64),
        torch.full((rows, tokens, top), float("nan")),
    )


def read_scores(directory: Path, keep: Tensor, top: int) -> Scores:
    """Read scores of tokens bool (B, T). Raises SubjectProtocolError where they do not fit, or a real token has none.

    A log-probability of -inf or NaN is a result, and is judged.
    """
    tensors = _read(directory / SCORES)
    experts = tensors.pop("experts", None)
    wanted = {"logprobs": (torch.float32, keep.shape), **_top_shapes(keep.shape, top)}
    _check(directory / SCORES, tensors, wanted)
    if experts is not None and (experts.dtype != torch.int64 or experts.shape[:2] != keep.shape or experts.ndim != 4):
        raise SubjectProtocolError(f"{directory / SCORES}: experts have the shape {tuple(experts.shape)}")
    scores = Scores(tensors["logprobs"], tensors["top_ids"], tensors["top_logprobs"], experts)
    if bool((scores.top_ids[find_scored(keep)][:, 0] < 0).any()):
        raise SubjectProtocolError(f"{directory / SCORES}: a token of the inputs was not scored")
    return scores


def read_continuation(directory: Path, rows: int, tokens: int, top: int) -> Continuation:
    """Read continuations of `rows` rows. Raises SubjectProtocolError where they do not fit."""
    tensors = _read(directory / CONTINUATION)
    _check(
        directory / CONTINUATION,
        tensors,
        {"ids": (torch.int64, (rows, tokens)), **_top_shapes((rows, tokens), top)},
    )
    return Continuation(tensors["ids"], tensors["top_ids"], tensors["top_logprobs"])


def find_scored(keep: Tensor) -> Tensor:
    """Return which tokens bool (B, T) have a score: the real ones but the first of each row."""
    first = keep.long().cumsum(-1) == 1
    return keep & ~first


def _top_shapes(shape: torch.Size | tuple[int, ...], top: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {"top_ids": (torch.int64, (*shape, top)), "top_logprobs": (torch.float32, (*shape, top))}


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as problem:
        raise SubjectProtocolError(f"{file}: cannot be read: {problem}") from None


def _check(file: Path, tensors: dict[str, Tensor], wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    for name, (dtype, shape) in wanted.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            said = "is missing" if tensor is None else f"is {tensor.dtype} {tuple(tensor.shape)}"
            raise SubjectProtocolError(f"{file}: {name} {said}, expected {dtype} {tuple(shape)}")
