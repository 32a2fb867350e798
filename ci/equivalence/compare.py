"""Two traces of one forward pass, tensor by tensor: structure first, then numbers. Holds one tensor of both sides.

The measure of a tensor is its relative L2 error ||actual - expected|| / ||expected|| over the tokens that count, and
the same of the worst single token, so that one wrong token of a long sequence, or a token beside another of a
thousand times its norm, is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ci.evidence import FailureClass

CHUNK = 1 << 17
"""Elements compared at a time: what stays in a core's cache."""
RMS_EPSILON = 1e-4
"""Regularises the scale of the specification's relative thresholds (Fast-LLM's `CompareConfig.rms_eps`)."""
TOKEN_SCALE_FLOOR = 1e-2
"""A token's error is relative to its own norm, but at least to this share of the typical norm of a token."""


@dataclass(frozen=True)
class Problem:
    """Why two tensors cannot be compared in numbers at all."""

    failure_class: FailureClass
    tensor: str
    message: str


@dataclass(frozen=True)
class Difference:
    """One tensor against its expectation, over the tokens kept.

    `error` is relative L2, `token_error` that of the worst token, both dimensionless. `rms_rel` and `max_rel` are the
    specification's: relative to the tensor's RMS. `by_token` is float32 (B, T), each token's relative error, NaN where
    a token does not count.
    """

    error: float
    token_error: float
    max_abs: float
    rms_abs: float
    rms_rel: float
    max_rel: float
    worst_index: tuple[int, ...]
    expected: float
    actual: float
    by_token: Tensor
    shape: tuple[int, ...] = ()


def problem(name: str, actual: Tensor, expected: Tensor, *, dtype: torch.dtype) -> Problem | None:
    """What must be right before numbers are compared: shape, then dtype, then every value finite."""
    if actual.shape != expected.shape:
        shapes = f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        return Problem("shape_mismatch", name, f"{name} has {shapes}")
    if actual.is_floating_point() != expected.is_floating_point() or (
        actual.is_floating_point() and actual.dtype != dtype
    ):
        return Problem("shape_mismatch", name, f"{name} is {actual.dtype}, expected {dtype}".replace("torch.", ""))
    if (bad := first_non_finite(actual)) is not None:
        where = ", ".join(map(str, bad))
        return Problem(
            "non_finite", name, f"{name} is {float(actual[bad])} at [{where}], expected {float(expected[bad]):.6g}"
        )
    return None


def first_non_finite(tensor: Tensor) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity in memory order, or None. The sum of finite values tells most cases."""
    if not tensor.is_floating_point() or math.isfinite(float(tensor.sum(dtype=torch.float64))):
        return None
    finite = tensor.isfinite()
    return None if bool(finite.all()) else _unravel(int((~finite).flatten().long().argmax()), tensor.shape)


def difference(actual: Tensor, expected: Tensor, *, keep: Tensor | None = None, full: bool = True) -> Difference:
    """How far `actual` (B, T, …) is from `expected` (B, T, …), over the tokens where `keep` (B, T) is true.

    With `full` false only `error`, `token_error` and `by_token` are measured, which is what a noise floor needs.
    Differences that one flushed denormal explains count as none.
    """
    batch, length = expected.shape[:2]
    rows_a, rows_e = actual.reshape(batch * length, -1), expected.reshape(batch * length, -1)
    kept = torch.ones(batch * length, dtype=torch.bool) if keep is None else keep.reshape(-1)
    d2, e2 = torch.zeros(batch * length, dtype=torch.float64), torch.zeros(batch * length, dtype=torch.float64)
    top = torch.zeros(batch * length, dtype=torch.float64)
    step = max(1, CHUNK // max(1, rows_e.shape[1]))
    for start in range(0, batch * length, step):
        part = slice(start, start + step)
        wanted = rows_e[part].double()
        delta = rows_a[part].double() - wanted
        d2[part] = torch.linalg.vector_norm(delta, dim=1).square()
        e2[part] = torch.linalg.vector_norm(wanted, dim=1).square()
        if full:
            top[part] = torch.linalg.vector_norm(delta, ord=math.inf, dim=1)
    slack = rows_e.shape[1] * _smallest(actual.dtype) ** 2
    return _summary(actual, expected, (d2 - slack).clamp(min=0), e2, top, kept, full=full)


def _summary(
    actual: Tensor, expected: Tensor, d2: Tensor, e2: Tensor, top: Tensor, kept: Tensor, *, full: bool
) -> Difference:
    batch, length = expected.shape[:2]
    width = max(1, expected[0, 0].numel())
    count = max(1, int(kept.sum()))
    total_d, total_e = float(d2[kept].sum()), float(e2[kept].sum())
    scale = e2.clamp(min=TOKEN_SCALE_FLOOR**2 * total_e / count)
    by_token = _ratio(d2, scale).sqrt().masked_fill(~kept, math.nan)
    error = math.sqrt(total_d / total_e) if total_e else (math.inf if total_d else 0.0)
    token_error = float(by_token[kept].max()) if bool(kept.any()) else 0.0
    figures: dict[str, float] = dict.fromkeys(("max_abs", "rms_abs", "rms_rel", "max_rel", "expected", "actual"), 0.0)
    index: tuple[int, ...] = ()
    if full and bool(kept.any()):
        index = _worst_index(actual, expected, int(top.masked_fill(~kept, -1).argmax()))
        rms, rms_expected = math.sqrt(total_d / (count * width)), math.sqrt(total_e / (count * width))
        regular = math.hypot(rms_expected, RMS_EPSILON)
        largest = float(top[kept].max())
        figures = {
            "max_abs": largest,
            "rms_abs": rms,
            "rms_rel": rms / regular,
            "max_rel": largest / regular,
            "expected": float(expected[index]),
            "actual": float(actual[index]),
        }
    return Difference(
        error=error,
        token_error=token_error,
        worst_index=index,
        by_token=by_token.float().reshape(batch, length),
        shape=tuple(expected.shape),
        **figures,
    )


def _ratio(d2: Tensor, e2: Tensor) -> Tensor:
    """d2 / e2 where 0 / 0 is 0 and x / 0 infinite."""
    return torch.where(d2 > 0, d2 / e2, torch.zeros_like(d2))


def _worst_index(actual: Tensor, expected: Tensor, token: int) -> tuple[int, ...]:
    row, position = divmod(token, expected.shape[1])
    delta = (actual[row, position].double() - expected[row, position].double()).abs()
    return (row, position, *_unravel(int(delta.argmax()), delta.shape))


def _unravel(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))


def _smallest(dtype: torch.dtype) -> float:
    """Below this a value may be flushed to zero: the smallest normal; float16's denormals are kept everywhere."""
    return 2.0**-24 if dtype == torch.float16 else torch.finfo(dtype).tiny


def distribution(actual: Tensor, expected: Tensor, keep: Tensor) -> dict[str, float]:
    """How far the predicted distributions are over the kept tokens: KL(expected || actual) in nats, and the top choice.

    `top1_agreement` counts the tokens where the expected best logit leads by more than twice the largest error: any
    right answer agrees on all of them.
    """
    kl, agree, decided = [], 0, 0
    width = expected.shape[-1]
    rows_a, rows_e = actual.reshape(-1, width)[keep.reshape(-1)], expected.reshape(-1, width)[keep.reshape(-1)]
    step = max(1, CHUNK // width)
    for start in range(0, len(rows_e), step):
        a, e = rows_a[start : start + step].float(), rows_e[start : start + step].float()
        log_e = e.log_softmax(-1)
        kl.append((log_e.exp() * (log_e - a.log_softmax(-1))).sum(-1).clamp(min=0))
        best = e.topk(2, dim=-1).values
        clear = best[:, 0] - best[:, 1] > 2 * (a - e).abs().amax(-1)
        agree += int((clear & (a.argmax(-1) == e.argmax(-1))).sum())
        decided += int(clear.sum())
    nats = torch.cat(kl) if kl else torch.zeros(1)
    return {
        "kl_mean": float(nats.mean()),
        "kl_p99": float(nats.quantile(0.99)),
        "kl_max": float(nats.max()),
        "top1_agreement": agree / decided if decided else 1.0,
    }
