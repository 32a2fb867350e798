"""The protocol of a consumer: describe, score, continue. A consumer is an engine that serves a Hugging Face directory.

Like a subject it may run in an interpreter of its own, so these records are standard dataclasses with JSON values.
Requests name files, and results are files beside a record (`ci.consumers.score_files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ci.subjects.base import DType

TOP = 8
"""The most likely tokens that are recorded for each position."""
CONTINUED_TOKENS = 24
"""The tokens of a greedy continuation."""

BATCH_INVARIANT = "batch invariant"
"""Key in `ConsumerDescription.flags`: whether an answer depends on what else is in the batch, as the engine says."""


@dataclass(frozen=True)
class ConsumerDescription:
    """An engine: its name and version, the libraries it stands on, and the flags that it is started with."""

    consumer: str
    version: str
    python: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreRequest:
    """Score every token of `inputs` with the checkpoint directory; write into the new directory `output`.

    `inputs` is a safetensors file as of a TraceRequest: `input_ids` int64 (B, T), optionally a left padded
    `attention_mask`. Each row is a prompt of its own, without its padding. `dtype` "auto" is what the checkpoint says.
    """

    checkpoint: str
    inputs: str
    output: str
    dtype: DType | Literal["auto"] = "float32"
    device: str = "cpu"
    top: int = TOP


@dataclass(frozen=True)
class ScoreResult:
    """A finished scoring: tokens scored, the dtype that ran, and seconds.

    `tokenizer` says why the engine runs without the checkpoint's tokenizer, "" where it has one.
    """

    tokens: int
    dtype: str
    seconds: float
    load_seconds: float = 0.0
    tokenizer: str = ""


@dataclass(frozen=True)
class ContinueRequest:
    """Continue every row of `inputs` greedily by `tokens` tokens, whatever they are; write into `output`.

    `stop_ids` are token ids of which the engine is asked whether a generation ends with each.
    """

    checkpoint: str
    inputs: str
    output: str
    dtype: DType | Literal["auto"] = "float32"
    device: str = "cpu"
    tokens: int = CONTINUED_TOKENS
    top: int = TOP
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ContinueResult:
    """A finished continuation, and what the engine makes of the files beside the weights.

    `stops` tells for each of the request's `stop_ids` whether a generation ended with it. `sampling` are the defaults
    that the engine takes from the generation config, as JSON text by name. `chat_ids` are the token ids of
    a fixed conversation in the checkpoint's chat template, empty where it has none, and `text_ids` those of a fixed
    text, with what the tokenizer adds. `default_dtype` is the dtype and `context` the longest context, in tokens, in
    which the engine would serve the checkpoint by itself; 0 is not said.
    """

    seconds: float
    stops: Mapping[str, bool] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)
    chat_ids: tuple[int, ...] = ()
    default_dtype: str = ""
    text_ids: tuple[int, ...] = ()
    context: int = 0


CONVERSATION = (
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "Thank you!"},
)
"""The conversation that an engine renders with the checkpoint's chat template."""
TEXT = "Two and two make 4.\n\n  La réponse est là."
"""The text that an engine tokenizes as a prompt: words, digits, white space, and letters beyond ASCII."""


class Consumer(Protocol):
    """An engine that serves a Hugging Face directory.

    A checkpoint that it cannot load is a SubjectError with the engine's own words; see `ci.consumers.load_errors`.
    """

    def describe(self) -> ConsumerDescription:
        """Return the engine's name, version, libraries and flags."""
        ...

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Write the log-probability of each token of the inputs, and the most likely tokens."""
        ...

    def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
        """Write a greedy continuation of each row, and tell at which tokens generation ends."""
        ...

    def release(self) -> None:
        """Unload the model that was kept for the next request."""
        ...
