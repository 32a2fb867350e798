"""One tensor against its expectation: first shape and dtype, then numbers.

The error of a tensor is its relative L2 norm ||actual - expected|| / ||expected|| over the tokens that count. The same
is measured for each token, so that one wrong token of a long sequence shows, also beside a token of a thousand times
its norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ci.equivalence.tolerances import FLUSH_TO_ZERO, RMS_EPSILON, TOKEN_SCALE_FLOOR
from ci.evidence import FailureClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Elements compared at a time: what fits a core's cache, and what keeps a GPU busy."""


@dataclass(frozen=True)
class TensorProblem:
    """Why two tensors cannot be compared in numbers."""

    failure_class: FailureClass
    tensor: str
    message: str


@dataclass(frozen=True)
class TensorDiff:
    """One tensor against its expectation, over the tokens that count.

    `error` is relative L2, `token_error` that of the worst token, both dimensionless. `rms_rel` and `max_rel` are the
    specification's: relative to the tensor's RMS. `by_token` is float32 (B, T) on the CPU, each token's relative error,
    NaN where a token does not count. `finite` is false where a value of either side is NaN or infinite, whether its
    token counts or not: then no figure means anything.
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


def find_mismatch(name: str, actual: Tensor, expected: Tensor, *, dtype: torch.dtype) -> TensorProblem | None:
    """Return the mismatch of shape or dtype that forbids a comparison, else None."""
    if actual.shape != expected.shape:
        shapes = f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        return TensorProblem("shape_mismatch", name, f"{name} has {shapes}")
    if actual.is_floating_point() != expected.is_floating_point() or (
        actual.is_floating_point() and actual.dtype != dtype
    ):
        message = f"{name} is {actual.dtype}, expected {dtype}".replace("torch.", "")
        return TensorProblem("shape_mismatch", name, message)
    return None


def find_non_finite(name: str, actual: Tensor, expected: Tensor) -> TensorProblem | None:
    """Return the first NaN or infinity of `actual` in memory order, else None."""
    finite = actual.isfinite()
    if bool(finite.all()):
        return None
    bad = _unravel(int((~finite).flatten().long().argmax()), actual.shape)
    message = f"{name} is {float(actual[bad])} at {list(bad)}, expected {float(expected[bad]):.6g}"
    return TensorProblem("non_finite", name, message)


def compare_tensors(
    actual: Tensor, expected: Tensor, *, keep: Tensor | None = None, all_figures: bool = True
) -> TensorDiff:
    """Compare (B, T, …) tensors over the tokens where `keep` (B, T) is true.

    Without `all_figures` only `error`, `token_error` and `by_token` are measured, which is what a noise floor needs.
    A difference that flushed denormals explain counts as none.
    """
    tokens = expected.shape[0] * expected.shape[1]
    actual_rows, expected_rows = actual.reshape(tokens, -1), expected.reshape(tokens, -1)
    kept = torch.ones(tokens, dtype=torch.bool) if keep is None else keep.reshape(-1).cpu()
    diff_squares, squares, largest = sums = torch.zeros(3, tokens, dtype=torch.float64, device=expected.device)
    step = max(1, CHUNK[expected.device.type] // max(1, expected_rows.shape[1]))
    for start in range(0, tokens, step):
        chunk = slice(start, start + step)
        wanted = expected_rows[chunk].double()
        delta = actual_rows[chunk].to(torch.float64, copy=True).sub_(wanted)
        diff_squares[chunk] = torch.linalg.vector_norm(delta, dim=1).square()
        squares[chunk] = torch.linalg.vector_norm(wanted, dim=1).square()
        if all_figures:
            largest[chunk] = delta.abs_().amax(dim=1)  # vector_norm's ord=inf gives the same in ten times the time
    d2, e2, top = sums.cpu().numpy()
    d2 = (d2 - _flushed_square(actual)).clip(min=0)
    return _summarize(actual, expected, d2, e2, top, kept.numpy(), all_figures=all_figures)


def _flushed_square(actual: Tensor) -> float:
    """Return the squared error of a token whose values were all flushed to zero."""
    smallest = FLUSH_TO_ZERO[str(actual.dtype).removeprefix("torch.")]
    return float(max(1, actual[0, 0].numel()) * smallest**2)


def _summarize(
    actual: Tensor, expected: Tensor, d2: Floats, e2: Floats, top: Floats, kept: NDArray[np.bool_], *, all_figures: bool
) -> TensorDiff:
    """Combine the tokens' squared errors, squared norms and largest differences, each (B * T,).

    Numpy is faster than torch on arrays this small.
    """
    counted, total_d, total_e = int(kept.sum()), float(d2[kept].sum()), float(e2[kept].sum())
    count, width = max(1, counted), max(1, expected[0, 0].numel())
    ratios = np.sqrt(_divide(d2, e2.clip(min=TOKEN_SCALE_FLOOR**2 * total_e / count)))
    figures: dict[str, float] = dict.fromkeys(("max_abs", "rms_abs", "rms_rel", "max_rel", "expected", "actual"), 0.0)
    index: tuple[int, ...] = ()
    if all_figures and counted:
        index = _find_worst_index(actual, expected, int(np.where(kept, top, -1).argmax()))
        rms, rms_expected = math.sqrt(total_d / (count * width)), math.sqrt(total_e / (count * width))
        scale = math.hypot(rms_expected, RMS_EPSILON)
        largest = float(top[kept].max())
        figures = {
            "max_abs": largest,
            "rms_abs": rms,
            "rms_rel": rms / scale,
            "max_rel": largest / scale,
            "expected": float(expected[index]),
            "actual": float(actual[index]),
        }
    return TensorDiff(
        error=math.sqrt(total_d / total_e) if total_e else (math.inf if total_d else 0.0),
        token_error=float(ratios[kept].max()) if counted else 0.0,
        worst_index=index,
        by_token=torch.from_numpy(np.where(kept, ratios, np.nan).astype(np.float32).reshape(expected.shape[:2])),
        shape=tuple(expected.shape),
        finite=bool(np.isfinite(d2).all()),
        **figures,
    )


def _divide(d2: Floats, e2: Floats) -> Floats:
    """Return d2 / e2, where 0 / 0 is 0 and x / 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(d2 > 0, d2 / e2, 0.0)


def _find_worst_index(actual: Tensor, expected: Tensor, token: int) -> tuple[int, ...]:
    row, position = divmod(token, expected.shape[1])
    delta = (actual[row, position].double() - expected[row, position].double()).abs()
    return (row, position, *_unravel(int(delta.argmax()), delta.shape))


def _unravel(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def compare_distributions(actual: Tensor, expected: Tensor, keep: Tensor) -> dict[str, float]:
    """Compare the predicted distributions of the kept tokens.

    KL(expected || actual) is in nats. `top1_agreement` is the share of tokens with the same best choice; a right answer
    may differ where two are near.
    """
    width = expected.shape[-1]
    actual_rows, expected_rows = (t.reshape(-1, width)[keep.reshape(-1)] for t in (actual, expected))
    step = max(1, CHUNK[expected.device.type] // width)
    nats, agree = [torch.zeros(1)], 0
    for start in range(0, len(expected_rows), step):
        a, e = actual_rows[start : start + step].float(), expected_rows[start : start + step].float()
        nats.append(_compute_kl(a, e).cpu())
        agree += int((a.argmax(-1) == e.argmax(-1)).sum())
    kl = torch.cat(nats[1:] or nats)
    return {
        "kl_mean": float(kl.mean()),
        "kl_p99": float(kl.quantile(0.99)),
        "kl_max": float(kl.max()),
        "top1_agreement": agree / len(expected_rows) if len(expected_rows) else 1.0,
    }


def _compute_kl(actual: Tensor, expected: Tensor) -> Tensor:
    """Return KL(softmax(expected) || softmax(actual)) of each row in nats.

    With p = softmax(e): sum p (e - a) - logsumexp e + logsumexp a.
    """
    probabilities = torch.softmax(expected, dim=-1)
    mean: Tensor = torch.linalg.vecdot(probabilities, expected - actual)
    return (mean - expected.logsumexp(-1) + actual.logsumexp(-1)).clamp(min=0)
