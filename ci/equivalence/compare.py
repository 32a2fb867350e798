"""Two traces of one forward pass, tensor by tensor: structure first, then numbers. Holds one tensor of both sides.

The measure of a tensor is its relative L2 error ||actual - expected|| / ||expected|| over the tokens that count, and
the same of the worst single token, so that one wrong token of a long sequence, or a token beside another of a
thousand times its norm, is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ci.evidence import FailureClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Elements compared at a time: what stays in a core's cache, and what keeps a GPU busy."""
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
    a token does not count, on the CPU. `finite` is false where a value of either side is NaN or infinite, whether its
    token counts or not: no figure means anything then.
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
    finite: bool = True


def problem(name: str, actual: Tensor, expected: Tensor, *, dtype: torch.dtype) -> Problem | None:
    """What must be right before numbers are compared: shape, then dtype."""
    if actual.shape != expected.shape:
        shapes = f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        return Problem("shape_mismatch", name, f"{name} has {shapes}")
    if actual.is_floating_point() != expected.is_floating_point() or (
        actual.is_floating_point() and actual.dtype != dtype
    ):
        return Problem("shape_mismatch", name, f"{name} is {actual.dtype}, expected {dtype}".replace("torch.", ""))
    return None


def non_finite(name: str, actual: Tensor, expected: Tensor) -> Problem | None:
    """The first NaN or infinity of `actual` in memory order, where there is one."""
    finite = actual.isfinite()
    if bool(finite.all()):
        return None
    bad = _unravel(int((~finite).flatten().long().argmax()), actual.shape)
    said = f"{name} is {float(actual[bad])} at {list(bad)}, expected {float(expected[bad]):.6g}"
    return Problem("non_finite", name, said)


def difference(actual: Tensor, expected: Tensor, *, keep: Tensor | None = None, full: bool = True) -> Difference:
    """How far `actual` (B, T, …) is from `expected` (B, T, …), over the tokens where `keep` (B, T) is true.

    With `full` false only `error`, `token_error` and `by_token` are measured, which is what a noise floor needs.
    Differences that one flushed denormal explains count as none.
    """
    tokens = expected.shape[0] * expected.shape[1]
    rows_a, rows_e = actual.reshape(tokens, -1), expected.reshape(tokens, -1)
    kept = torch.ones(tokens, dtype=torch.bool) if keep is None else keep.reshape(-1).cpu()
    d2, e2, top = sums = torch.zeros(3, tokens, dtype=torch.float64, device=expected.device)
    step = max(1, CHUNK[expected.device.type] // max(1, rows_e.shape[1]))
    for start in range(0, tokens, step):
        part = slice(start, start + step)
        wanted = rows_e[part].double()
        delta = rows_a[part].to(torch.float64, copy=True).sub_(wanted)
        d2[part] = torch.linalg.vector_norm(delta, dim=1).square()
        e2[part] = torch.linalg.vector_norm(wanted, dim=1).square()
        if full:
            top[part] = delta.abs_().amax(dim=1)  # vector_norm's ord=inf gives the same in ten times the time
    squares, scales, tops = sums.cpu().numpy()
    return _summary(actual, expected, (squares - _slack(actual)).clip(min=0), scales, tops, kept.numpy(), full=full)


def _slack(actual: Tensor) -> float:
    """What a token's squared error may be for every value flushed to zero."""
    return max(1, actual[0, 0].numel()) * _smallest(actual.dtype) ** 2


def _summary(
    actual: Tensor, expected: Tensor, d2: Floats, e2: Floats, top: Floats, kept: NDArray[np.bool_], *, full: bool
) -> Difference:
    """Of the squared sums and largest differences of each token, (B * T,); small arrays are numpy's strength."""
    counted, total_d, total_e = int(kept.sum()), float(d2[kept].sum()), float(e2[kept].sum())
    count, width = max(1, counted), max(1, expected[0, 0].numel())
    ratios = np.sqrt(_ratio(d2, e2.clip(min=TOKEN_SCALE_FLOOR**2 * total_e / count)))
    figures: dict[str, float] = dict.fromkeys(("max_abs", "rms_abs", "rms_rel", "max_rel", "expected", "actual"), 0.0)
    index: tuple[int, ...] = ()
    if full and counted:
        index = _worst_index(actual, expected, int(np.where(kept, top, -1).argmax()))
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
        error=math.sqrt(total_d / total_e) if total_e else (math.inf if total_d else 0.0),
        token_error=float(ratios[kept].max()) if counted else 0.0,
        worst_index=index,
        by_token=torch.from_numpy(np.where(kept, ratios, np.nan).astype(np.float32).reshape(expected.shape[:2])),
        shape=tuple(expected.shape),
        finite=bool(np.isfinite(d2).all()),
        **figures,
    )


def _ratio(d2: Floats, e2: Floats) -> Floats:
    """d2 / e2 where 0 / 0 is 0 and x / 0 infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(d2 > 0, d2 / e2, 0.0)


def _worst_index(actual: Tensor, expected: Tensor, token: int) -> tuple[int, ...]:
    row, position = divmod(token, expected.shape[1])
    delta = (actual[row, position].double() - expected[row, position].double()).abs()
    return (row, position, *_unravel(int(delta.argmax()), delta.shape))


def _unravel(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _smallest(dtype: torch.dtype) -> float:
    """Below this a value may be flushed to zero: the smallest normal; float16's denormals are kept everywhere."""
    return 2.0**-24 if dtype == torch.float16 else torch.finfo(dtype).tiny


def distribution(actual: Tensor, expected: Tensor, keep: Tensor) -> dict[str, float]:
    """How far the predicted distributions are over the kept tokens: KL(expected || actual) in nats, and the top choice.

    `top1_agreement` is the share of tokens with the same best choice; a right answer may differ where two are near.
    """
    width = expected.shape[-1]
    rows_a, rows_e = actual.reshape(-1, width)[keep.reshape(-1)], expected.reshape(-1, width)[keep.reshape(-1)]
    step = max(1, CHUNK[expected.device.type] // width)
    nats, agree = [torch.zeros(1)], 0
    for start in range(0, len(rows_e), step):
        a, e = rows_a[start : start + step].float(), rows_e[start : start + step].float()
        nats.append(_divergence(a, e).cpu())
        agree += int((a.argmax(-1) == e.argmax(-1)).sum())
    kl = torch.cat(nats[1:] or nats)
    return {
        "kl_mean": float(kl.mean()),
        "kl_p99": float(kl.quantile(0.99)),
        "kl_max": float(kl.max()),
        "top1_agreement": agree / len(rows_e) if len(rows_e) else 1.0,
    }


def _divergence(a: Tensor, e: Tensor) -> Tensor:
    """KL(softmax(e) || softmax(a)) of each row, in nats: sum p (e - a) - logsumexp e + logsumexp a."""
    expected = torch.softmax(e, dim=-1)
    mean: Tensor = torch.linalg.vecdot(expected, e - a)
    return (mean - e.logsumexp(-1) + a.logsumexp(-1)).clamp(min=0)
