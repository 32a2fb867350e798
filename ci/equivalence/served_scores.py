"""Log-probabilities of the same tokens from two engines: their gap by token, its distribution, and known figures.

All values are nats. A gap is log p of an engine minus log p of Hugging Face, for the token that is in the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ci.consumers.score_files import find_scored

if TYPE_CHECKING:
    from ci.consumers.score_files import Scores

QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Gap:
    """The gaps float64 (B, T) of the tokens `where` bool (B, T); what is not compared is 0.

    `infinite` counts tokens that one side gives no finite log-probability while the other does.
    """

    values: Tensor
    where: Tensor
    infinite: int = 0

    @property
    def tokens(self) -> int:
        """How many tokens are compared."""
        return int(self.where.sum())

    @property
    def rms(self) -> float:
        """The root of the mean square; infinite where a token is."""
        if self.infinite:
            return math.inf
        return float(self.values[self.where].square().mean().sqrt()) if self.tokens else 0.0

    @property
    def largest(self) -> float:
        """The largest absolute gap; infinite where a token is."""
        if self.infinite:
            return math.inf
        return float(self.values[self.where].abs().max()) if self.tokens else 0.0

    @property
    def worst(self) -> tuple[int, ...]:
        """Row and position of the largest absolute gap."""
        flat = int(self.values.abs().masked_fill(~self.where, -1.0).argmax())
        return divmod(flat, self.values.shape[1])

    def quantiles(self) -> tuple[float, ...]:
        """Return the median, the 90th and the 99th percentile of the absolute gaps."""
        if not self.tokens:
            return tuple(0.0 for _ in QUANTILES)
        absolute = self.values[self.where].abs().sort().values
        return tuple(float(absolute[min(len(absolute) - 1, int(q * len(absolute)))]) for q in QUANTILES)

    def without(self, left_out: Tensor) -> Gap:
        """Return the gap over the tokens that are not `left_out` bool (B, T)."""
        return Gap(self.values, self.where & ~left_out, self.infinite)

    def largest_by_position(self) -> tuple[float, ...]:
        """Return the largest absolute gap at each position, over all rows."""
        return tuple(self.values.abs().masked_fill(~self.where, 0.0).amax(0).tolist())


def measure_gap(actual: Tensor, expected: Tensor, keep: Tensor) -> Gap:
    """Return the gap of log-probabilities (B, T) over the scored tokens of `keep` bool (B, T).

    Tokens that are as impossible on both sides have no gap.
    """
    where = find_scored(keep)
    one, other = actual.double(), expected.double()
    finite = one.isfinite() & other.isfinite()
    alike = one == other
    values = torch.where(finite & where, one - other, torch.zeros_like(one))
    return Gap(values, where & finite, int((where & ~finite & ~alike).sum()))


def find_first_beyond(gap: Gap, keep: Tensor, limit: float) -> int | None:
    """Return the first position in a row's real tokens, of any row, whose gap is above `limit` nats; None without one.

    A lost window shows behind its end, a lost RoPE scaling far into a text, a wrong weight from the first token on.
    """
    positions = (keep.bool().cumsum(-1) - 1)[gap.where & (gap.values.abs() > limit)]
    return int(positions.min()) if len(positions) else None


def mean_multiplicative_error(gap: Gap) -> float:
    """Return the mean of exp |Δ log p|: 1 is equality. NeMo-RL's `token_mult_prob_error`.

    https://github.com/NVIDIA-NeMo/RL/blob/main/docs/adding-new-models.md
    """
    return float(gap.values[gap.where].abs().exp().mean()) if gap.tokens and not gap.infinite else math.inf


def estimate_policy_divergence(gap: Gap) -> float:
    """Return the mean of exp(Δ) - 1 - Δ, an estimate of the KL divergence from the input's own tokens.

    It is never negative. http://joschu.net/blog/kl-approx.html names it k3; trainers report it as KL.
    """
    if gap.infinite or not gap.tokens:
        return math.inf if gap.infinite else 0.0
    values = gap.values[gap.where]
    return float((values.exp() - 1 - values).mean())


def bound_divergence(actual: Scores, expected: Scores, keep: Tensor) -> float:
    """Return a lower bound of the mean KL(expected ‖ actual): over the tokens both list, and one bin for the rest.

    Merging outcomes into bins can only lower a divergence (data processing inequality).
    """
    where = find_scored(keep)
    ids, logs = expected.top_ids[where], expected.top_logprobs[where].double()
    others, their_logs = actual.top_ids[where], actual.top_logprobs[where].double()
    same = (ids[:, :, None] == others[:, None, :]) & (ids >= 0)[:, :, None]
    listed = same.any(-1)
    matched = torch.where(same, their_logs[:, None, :], torch.full_like(their_logs[:, None, :], -math.inf)).amax(-1)
    p, q = (torch.where(listed, values.exp(), torch.zeros_like(values)) for values in (logs, matched))
    inner = torch.where(listed, p * (logs - matched), torch.zeros_like(p)).sum(-1)
    rest, their_rest = ((1 - mass.sum(-1)).clamp(min=1e-12) for mass in (p, q))
    return float((inner + rest * (rest / their_rest).log()).clamp(min=0).mean()) if len(ids) else 0.0


@dataclass(frozen=True)
class MismatchShares:
    """Where the gap of a trainer to the engine that rolls out comes from, rms in nats.

    `trainer` is the gap of the trainer to Hugging Face, `engine` that of Hugging Face to the engine. `engine_share` is
    the engine's part of the mean square of `total`: the two parts add up to 1. It can be outside of 0 to 1 where they
    cancel each other.
    """

    total: float
    trainer: float
    engine: float
    engine_share: float


def split_mismatch(trainer: Tensor, hugging_face: Tensor, engine: Tensor, keep: Tensor) -> MismatchShares:
    """Split log p of trainer minus engine, (B, T) each, at Hugging Face in between."""
    total = measure_gap(trainer, engine, keep)
    own, theirs = measure_gap(trainer, hugging_face, keep), measure_gap(hugging_face, engine, keep)
    square = float(total.values.square().sum())
    share = float((theirs.values * total.values).sum()) / square if square else 0.0
    return MismatchShares(total.rms, own.rms, theirs.rms, share)
