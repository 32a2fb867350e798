"""What other projects would have said: their published pass rules, on the inputs they use, as data.

Each rule sees the prefix of a longer sequence where its project feeds a short one: a causal model answers the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ci.equivalence.tolerances import SPECIFICATION_LIMITS
from ci.subjects.tracefile import TraceReader

PROMPTS, LONG = 3, 490
"""Random prompts, and the length that the longest rule needs."""
GREEDY_PROMPT, GREEDY = 8, 32
"""vLLM's check continues prompts greedily: tokens of the prompt, and of the continuation."""


@dataclass(frozen=True)
class Sides:
    """Hugging Face's trace and the subject's: `long` in float32; `greedy`, over a continuation, in bfloat16."""

    long: tuple[TraceReader, TraceReader]
    greedy: tuple[TraceReader, TraceReader]

    def logits(self, length: int, rows: int = PROMPTS) -> tuple[Tensor, Tensor]:
        """Float32 logits (rows, length, vocabulary) of both, Hugging Face's first."""
        theirs, ours = (trace.tensor("logits")[:rows, :length].float() for trace in self.long)
        return theirs, ours

    def greedy_logits(self) -> tuple[Tensor, Tensor]:
        """bfloat16 logits over prompts and their greedy continuation, as float32."""
        theirs, ours = (trace.tensor("logits").float() for trace in self.greedy)
        return theirs, ours


@dataclass(frozen=True)
class Rule:
    """A project's rule: `passes` is true where it would have seen nothing wrong."""

    name: str
    passes: Callable[[Sides], bool]


def _cosine(sides: Sides) -> bool:
    theirs, ours = (logits[:, GREEDY_PROMPT - 1] for logits in sides.greedy_logits())
    close = torch.cosine_similarity(theirs, ours, dim=-1) >= 0.99
    return bool((close & (theirs.argmax(-1) == ours.argmax(-1))).all())


def _kl(theirs: Tensor, ours: Tensor) -> Tensor:
    """KL(theirs || ours) by token, in nats."""
    log_theirs = theirs.log_softmax(-1)
    return (log_theirs.exp() * (log_theirs - ours.log_softmax(-1))).sum(-1)


def _max_kl(length: int, limit: float, *, last: bool = False) -> Callable[[Sides], bool]:
    def passes(sides: Sides) -> bool:
        nats = _kl(*sides.logits(length))
        return bool((nats[:, -1:] if last else nats).max() <= limit)

    return passes


def _top_five(sides: Sides) -> bool:
    """At the first token on which both disagree, each one's choice must be among the other's five best; then stop."""
    for theirs, ours in zip(*sides.greedy_logits(), strict=True):
        one, other = theirs[GREEDY_PROMPT - 1 :], ours[GREEDY_PROMPT - 1 :]
        differing = (one.argmax(-1) != other.argmax(-1)).nonzero().flatten()
        if len(differing):
            at = int(differing[0])
            if (
                int(one[at].argmax()) not in other[at].topk(5).indices
                or int(other[at].argmax()) not in one[at].topk(5).indices
            ):
                return False
    return True


def _all_close(length: int, rtol: float, atol: float) -> Callable[[Sides], bool]:
    def passes(sides: Sides) -> bool:
        theirs, ours = sides.logits(length, rows=1)
        return torch.allclose(ours, theirs, rtol=rtol, atol=atol)

    return passes


def _compare_config(sides: Sides) -> bool:
    """Fast-LLM's CompareConfig over 100 tokens: hidden states but the last block's, final norm and logits."""
    theirs, ours = sides.long
    blocks = [name for name in theirs if "." not in name.removeprefix("decoder.")]
    return all(_within(theirs.tensor(name)[:, :100], ours.tensor(name)[:, :100]) for name in blocks)


def _within(theirs: Tensor, ours: Tensor) -> bool:
    delta = (ours - theirs).abs()
    scale = torch.hypot(theirs.square().mean().sqrt(), torch.tensor(1e-4))
    rms, largest = delta.square().mean().sqrt(), delta.max()
    found = {"rms_abs": rms, "rms_rel": rms / scale, "max_abs": largest, "max_rel": largest / scale}
    return not any(bool(value > SPECIFICATION_LIMITS[key]) for key, value in found.items())


RULES: tuple[Rule, ...] = (
    Rule("Megatron-Bridge: cosine 0.99 and top-1, bf16", _cosine),
    Rule("MaxText: max KL 0.03, short prompts", _max_kl(4, 0.03)),
    Rule("MaxText: max KL 0.03, and 490 tokens", _max_kl(LONG, 0.03)),
    Rule("torchtitan: last-token KL 1e-3", _max_kl(8, 1e-3, last=True)),
    Rule("vLLM: top 5 at the first mismatch, bf16", _top_five),
    Rule("litgpt: assert_close float32, 5 tokens", _all_close(5, 1.3e-6, 1e-5)),
    Rule("OLMo-core: 1e-4 float32, 60 tokens", _all_close(60, 1e-4, 1e-4)),
    Rule("Fast-LLM: CompareConfig float32, 100 tokens", _compare_config),
)
