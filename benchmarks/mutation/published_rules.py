"""The published pass rules of other projects, on inputs as long as those projects use.

Where a project feeds a short sequence, its rule sees the prefix of a longer one: a causal model answers the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ci.equivalence.tolerances import SPECIFICATION_LIMITS
from ci.subjects.trace_files import TraceReader
from ci.tensor_names import LOGITS, is_block_level

PROMPTS, LONG = 3, 490
"""Random prompts, and the length that the longest rule needs."""
GREEDY_PROMPT, GREEDY = 8, 32
"""vLLM's check continues prompts greedily: tokens of the prompt, and of the continuation."""


@dataclass(frozen=True)
class RuleTraces:
    """Hugging Face's trace and the subject's: `long` in float32; `greedy`, over a continuation, in bfloat16."""

    long: tuple[TraceReader, TraceReader]
    greedy: tuple[TraceReader, TraceReader]

    def logits(self, length: int, rows: int = PROMPTS) -> tuple[Tensor, Tensor]:
        """Return float32 logits (rows, length, vocabulary) of both sides, Hugging Face first."""
        theirs, ours = (trace.tensor(LOGITS)[:rows, :length].float() for trace in self.long)
        return theirs, ours

    def greedy_logits(self) -> tuple[Tensor, Tensor]:
        """Return bfloat16 logits over prompts and their greedy continuation, as float32."""
        theirs, ours = (trace.tensor(LOGITS).float() for trace in self.greedy)
        return theirs, ours


@dataclass(frozen=True)
class Rule:
    """The rule of a project: `passes` is true where it would have reported no failure."""

    name: str
    passes: Callable[[RuleTraces], bool]


def _cosine(traces: RuleTraces) -> bool:
    theirs, ours = (logits[:, GREEDY_PROMPT - 1] for logits in traces.greedy_logits())
    close = torch.cosine_similarity(theirs, ours, dim=-1) >= 0.99
    return bool((close & (theirs.argmax(-1) == ours.argmax(-1))).all())


def _kl(theirs: Tensor, ours: Tensor) -> Tensor:
    """Return KL(theirs || ours) by token, in nats."""
    log_theirs = theirs.log_softmax(-1)
    return (log_theirs.exp() * (log_theirs - ours.log_softmax(-1))).sum(-1)


def _max_kl(length: int, limit: float, *, last: bool = False) -> Callable[[RuleTraces], bool]:
    def passes(traces: RuleTraces) -> bool:
        nats = _kl(*traces.logits(length))
        return bool((nats[:, -1:] if last else nats).max() <= limit)

    return passes


def _top_five(traces: RuleTraces) -> bool:
    """Return whether, at the first token that differs, each choice is among the other's five best."""
    for theirs, ours in zip(*traces.greedy_logits(), strict=True):
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


def _all_close(length: int, rtol: float, atol: float) -> Callable[[RuleTraces], bool]:
    def passes(traces: RuleTraces) -> bool:
        theirs, ours = traces.logits(length, rows=1)
        return torch.allclose(ours, theirs, rtol=rtol, atol=atol)

    return passes


def _compare_config(traces: RuleTraces) -> bool:
    """Apply Fast-LLM's CompareConfig to 100 tokens: hidden states except the last block's, final norm, logits."""
    theirs, ours = traces.long
    blocks = [name for name in theirs if is_block_level(name)]
    return all(_within(theirs.tensor(name)[:, :100], ours.tensor(name)[:, :100]) for name in blocks)


def _within(theirs: Tensor, ours: Tensor) -> bool:
    delta = (ours - theirs).abs()
    scale = torch.hypot(theirs.square().mean().sqrt(), torch.tensor(1e-4))
    rms, largest = delta.square().mean().sqrt(), delta.max()
    errors = {"rms_abs": rms, "rms_rel": rms / scale, "max_abs": largest, "max_rel": largest / scale}
    return not any(bool(value > SPECIFICATION_LIMITS[key]) for key, value in errors.items())


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
