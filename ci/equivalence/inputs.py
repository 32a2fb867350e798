"""What the models are fed, so that a bug has nowhere to hide: ids, text, padding, lengths, and the proof of coverage.

One batch holds most of it, because a row costs less than a forward pass: random ids over the whole vocabulary with
both of its ends and a run of one token, real text, and documents padded on the left. A document of that batch is fed
again alone; where the sliding window or the original length of a scaled RoPE is longer than the batch, a sequence of
its own goes beyond them, as far as memory allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.equivalence.walk import WHOLE, Part

if TYPE_CHECKING:
    from ci.models import TestParams
    from ci.subjects.base import DType

TEXT = Path(__file__).with_name("text.txt")
SEED = 20_260
BATCH_TOKENS = 2048
"""A batch grows to this many tokens to go beyond a short window; longer ones get a sequence of their own."""
BEYOND_TILES = 272
"""Beyond two tiles of 128: what kernels do at the edges of their blocks shows in one longer sequence."""
UNNAMED = ("dynamic", "longrope")
"""Scalings that begin at `max_position_embeddings` where the config names no original length."""
LONG_MEMORY_SHARE = 0.25
"""The share of the free memory that a long sequence may take."""


@dataclass(frozen=True)
class Needs:
    """What a model's config says that inputs must reach. `experts` is 0 for a dense model."""

    vocabulary: int
    hidden: int
    heads: int
    window: int | None = None
    rope_original: int | None = None
    positions: int | None = None
    experts: int = 0

    @property
    def beyond(self) -> int:
        """The sequence length that goes beyond every threshold of the model: 0 without any."""
        longest = max(self.window or 0, self.rope_original or 0)
        return longest + max(8, longest // 8) if longest else 0


@dataclass(frozen=True)
class Case:
    """One input: ids int64 (B, T), mask int64 (B, T) or None, what each row is, and which part of another case it is.

    A case with a `part` has no truth of its own: it must equal that part of the case `of`.
    """

    name: str
    ids: Tensor
    mask: Tensor | None = None
    rows: tuple[str, ...] = ()
    of: str = ""
    part: Part = WHOLE

    @property
    def keep(self) -> Tensor:
        """Bool (B, T): the real tokens."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask.bool()


def needs_of(config: Mapping[str, Any]) -> Needs:
    """Read a Hugging Face config.json, the text part of it."""
    text = config.get("text_config") or config
    windowed = bool(text.get("use_sliding_window", True)) and "sliding_attention" in (
        text.get("layer_types") or ["sliding_attention"]
    )
    return Needs(
        vocabulary=text["vocab_size"],
        hidden=text["hidden_size"],
        heads=text.get("num_attention_heads") or 1,
        window=(text.get("sliding_window") or None) if windowed else None,
        rope_original=_original_length(text),
        positions=text.get("max_position_embeddings"),
        experts=text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts") or 0,
    )


def published_dtype(config: Mapping[str, Any]) -> DType:
    """The dtype that a Hugging Face config.json says its checkpoint was published in; float32 where it says nothing."""
    text = config.get("text_config") or {}
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    known: dict[Any, DType] = {"bfloat16": "bfloat16", "float16": "float16"}
    return known.get(named, "float32")


def cases(
    needs: Needs, params: TestParams, *, text: Tensor | None, free_bytes: int, seed: int = SEED
) -> tuple[Case, ...]:
    """The inputs for a model. `text` holds ids int64 (N,) of real text, None without a tokenizer."""
    length = max(params.sequence_length, needs.beyond if _fits_batch(needs, params) else 0)
    batch = _batch(needs, params, length, text, seed)
    found = [batch, alone(batch)]
    wanted = max(needs.beyond, min(BEYOND_TILES, needs.positions or BEYOND_TILES))
    reachable = min(wanted, longest_affordable(needs, free_bytes))
    if reachable > length:
        found.append(Case("long", _random(needs.vocabulary, 1, reachable, seed + 1), rows=("random",)))
    return tuple(found)


def coverage(needs: Needs, found: tuple[Case, ...], *, free_bytes: int) -> dict[str, str]:
    """What the inputs reach, and in plain words what they do not."""
    lengths = {case.name: case.ids.shape[1] for case in found}
    longest = max(lengths.values())
    said = {
        "inputs": "; ".join(_described(case) for case in found),
        "vocabulary": _vocabulary(needs, found),
        "left padding": _padding(found[0]),
        "packed and alone": "the last row's document is run in the batch and alone",
    }
    why = f"not covered: capped at {longest} tokens by {free_bytes / 1e9:.1f} GB of free memory"
    if needs.window:
        said["sliding window"] = f"{longest} tokens > window {needs.window}" if longest > needs.window else why
    if needs.rope_original:
        reached = longest > needs.rope_original
        said["RoPE original length"] = f"{longest} tokens > {needs.rope_original}" if reached else why
    if not any("text" in row for row in found[0].rows):
        said["real text"] = "not covered: the checkpoint has no tokenizer that can be read"
    return said


def longest_affordable(needs: Needs, free_bytes: int) -> int:
    """The longest single sequence whose float64 logits, activations and attention mask fit a share of free memory.

    Logits count three times (result, copy in the trace, comparison), activations as 64 vectors of the hidden size,
    the attention of one layer as two (T, T) matrices a head.
    """
    budget, linear, square = (
        free_bytes * LONG_MEMORY_SHARE,
        8 * (3 * needs.vocabulary + 64 * needs.hidden),
        16 * needs.heads,
    )
    return int((-linear + (linear**2 + 4 * square * budget) ** 0.5) / (2 * square))


def text_ids(checkpoint: Path, vocabulary: int) -> Tensor | None:
    """Ids int64 (N,) of the shipped text by the checkpoint's own tokenizer; None where it has none."""
    file = checkpoint / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        ids = Tokenizer.from_file(str(file)).encode(TEXT.read_text(encoding="utf-8")).ids
    except Exception:  # the library raises bare Exception for a file that it cannot read
        return None
    known = [i for i in ids if i < vocabulary]
    return torch.tensor(known) if known else None


def grown(case: Case, needs: Needs, factor: int) -> Case:
    """The same batch with `factor` times its random rows, where some expert received no token."""
    more = _random(needs.vocabulary, case.ids.shape[0] * (factor - 1), case.ids.shape[1], SEED + factor)
    ids = torch.cat([more, case.ids])
    mask = None if case.mask is None else torch.cat([torch.ones_like(more), case.mask])
    return Case(case.name, ids, mask, ("random",) * len(more) + case.rows)


def _rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return nested[0] if nested else rope


def _original_length(text: Mapping[str, Any]) -> int | None:
    """Beyond which length a scaled RoPE acts otherwise; None for one that does not, or acts alike everywhere."""
    rope = _rope(text)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        return None
    named = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
    return named or (text.get("max_position_embeddings") if kind in UNNAMED else None)


def _fits_batch(needs: Needs, params: TestParams) -> bool:
    return needs.beyond * (params.batch_size + 2) <= BATCH_TOKENS


def _batch(needs: Needs, params: TestParams, length: int, text: Tensor | None, seed: int) -> Case:
    """Random rows, a row of text, a row padded to two thirds and one to a third: left padding and packing at once."""
    rows = [*_random(needs.vocabulary, params.batch_size, length, seed)]
    rows[0][:2] = torch.tensor([0, needs.vocabulary - 1])
    rows[-1][length // 2 : length // 2 + 4] = int(rows[-1][0])
    names = ["random"] * params.batch_size
    if text is not None:
        rows.append(text.repeat(length // len(text) + 1)[:length])
        names.append("text")
    mask = torch.ones(len(rows) + 2, length, dtype=torch.int64)
    for third in (2, 1):
        document = max(2, third * length // 3)
        mask[len(rows), : length - document] = 0
        rows.append(_random(needs.vocabulary, 1, length, seed + 10 + third)[0])
        names.append(f"document of {document}")
    return Case("batch", torch.stack(rows), mask, tuple(names))


def alone(batch: Case) -> Case:
    """The last document of the batch by itself: no padding, no neighbours, no mask."""
    row = len(batch.ids) - 1
    padding = int((batch.keep[row] == 0).sum())
    return Case("alone", batch.ids[row:, padding:], rows=(batch.rows[row],), of="batch", part=Part(row, padding))


def _described(case: Case) -> str:
    """Shape, rows and a digest: two runs with the same words saw the same ids. `; ` stands between cases only."""
    digest = hashlib.sha256(case.ids.contiguous().numpy().tobytes()).hexdigest()[:8]
    return f"{case.name}: {case.ids.shape[0]} x {case.ids.shape[1]} ({', '.join(case.rows)}, ids {digest})"


def _random(vocabulary: int, rows: int, length: int, seed: int) -> Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def _padding(batch: Case) -> str:
    documents = ", ".join(str(int(row.sum())) for row in batch.keep if not bool(row.all()))
    length = batch.ids.shape[1]
    if not documents:
        return f"not covered: {length} tokens leave no room for padding"
    return f"rows of {documents} tokens in a batch of {length}"


def _vocabulary(needs: Needs, found: tuple[Case, ...]) -> str:
    ids = torch.cat([case.ids.flatten() for case in found])
    return f"{len(set(ids.tolist()))} of {needs.vocabulary} ids, first and last included"
