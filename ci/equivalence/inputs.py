"""The token ids that models are compared on, chosen so that a bug shows, and what they cover.

One batch holds most of it, because a row costs less than a forward pass: random ids over the whole vocabulary with
both of its ends and a run of one token, real text, and documents padded on the left. The last document of the batch is
run again alone. A sequence of its own goes beyond the sliding window and the original length of a scaled RoPE, where
these are longer than the batch, as far as memory allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ci.equivalence import nested_config
from ci.equivalence.image_inputs import ImageRequirements, add_images, describe_images, read_image_requirements
from ci.equivalence.input_case import InputCase as InputCase
from ci.equivalence.tolerances import LONG_INPUT_MEMORY_SHARE
from ci.equivalence.trace_compare import BatchSlice
from ci.hub.config_numbers import read_count

if TYPE_CHECKING:
    from ci.models import TestParams
    from ci.subjects.base import DType

TEXT = Path(__file__).with_name("sample_text.txt")
SEED = 20_260
BATCH_TOKENS = 2048
"""A batch grows to this many tokens to go beyond a short window; a longer window gets a sequence of its own."""
BEYOND_TILES = 272
"""Length of the long input at least: more than two tiles of 128, so that the edges of kernels' blocks show."""
UNNAMED_SCALINGS = ("dynamic", "longrope")
"""RoPE scalings that begin at `max_position_embeddings` where the config names no original length."""


@dataclass(frozen=True)
class InputRequirements:
    """What a model's config says that inputs must reach. `experts` is 0 for a dense model."""

    vocabulary: int
    hidden: int
    heads: int
    window: int | None = None
    rope_original: int | None = None
    positions: int | None = None
    experts: int = 0
    images: ImageRequirements | None = None

    @property
    def required_length(self) -> int:
        """The sequence length that goes beyond every threshold of the model: 0 without any."""
        longest = max(self.window or 0, self.rope_original or 0)
        return longest + max(8, longest // 8) if longest else 0


def read_requirements(config: Mapping[str, Any]) -> InputRequirements:
    """Read the text part of a Hugging Face config.json. Raises RequestError for a size that no model has."""
    text = config.get("text_config") or config
    if nested_config.is_nested(text):
        return replace(_read_nested_requirements(text), images=read_image_requirements(config))
    windowed = bool(text.get("use_sliding_window", True)) and "sliding_attention" in (
        text.get("layer_types") or ["sliding_attention"]
    )
    return InputRequirements(
        vocabulary=read_count(text, "vocab_size", what="config.json"),
        hidden=read_count(text, "hidden_size", what="config.json"),
        heads=text.get("num_attention_heads") or 1,
        window=(text.get("sliding_window") or None) if windowed else None,
        rope_original=_read_original_length(text),
        positions=text.get("max_position_embeddings"),
        experts=_count_experts(text),
        images=read_image_requirements(config),
    )


def _count_experts(text: Mapping[str, Any]) -> int:
    """Return the routed experts of a layer; `enable_moe_block` switches those of Gemma 4 off."""
    if text.get("enable_moe_block") is False:
        return 0
    return text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts") or 0


def _read_nested_requirements(text: Mapping[str, Any]) -> InputRequirements:
    """Read what blocks that are nested below `decoder` ask for."""
    return InputRequirements(
        vocabulary=read_count(text, "vocab_size", what="config.json"),
        hidden=read_count(text, "hidden_size", what="config.json"),
        heads=nested_config.count_heads(text),
        window=nested_config.find_window(text),
        positions=(text.get("embeddings") or {}).get("max_position_embeddings"),
    )


def read_published_dtype(config: Mapping[str, Any]) -> DType:
    """Return the dtype that config.json says its checkpoint was published in, else float32."""
    text = config.get("text_config") or {}
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    known: dict[Any, DType] = {"bfloat16": "bfloat16", "float16": "float16"}
    return known.get(named, "float32")


def build_cases(
    needs: InputRequirements, params: TestParams, *, text: Tensor | None, free_bytes: int, seed: int = SEED
) -> tuple[InputCase, ...]:
    """Build the inputs for a model.

    `text` holds ids int64 (N,) of real text, None without a tokenizer.
    """
    length = max(params.sequence_length, needs.required_length if _fits_batch(needs, params) else 0)
    batch = _build_batch(needs, params, length, text, seed)
    cases = [batch, extract_last_document(batch)]
    wanted = max(needs.required_length, min(BEYOND_TILES, needs.positions or BEYOND_TILES))
    reachable = min(wanted, find_longest_length(needs, free_bytes))
    if reachable > length:
        cases.append(InputCase("long", _draw_ids(needs.vocabulary, 1, reachable, seed + 1), rows=("random",)))
    return add_images(tuple(cases), needs.images, seed) if needs.images else tuple(cases)


def describe_coverage(needs: InputRequirements, cases: tuple[InputCase, ...], *, free_bytes: int) -> dict[str, str]:
    """Say what the inputs reach, and in plain words what they do not."""
    lengths = {case.name: case.ids.shape[1] for case in cases}
    longest = max(lengths.values())
    coverage = {
        "inputs": "; ".join(_describe_case(case) for case in cases),
        "vocabulary": _describe_vocabulary(needs, cases),
        "left padding": _describe_padding(cases[0]),
        "packed and alone": "the last row's document is run in the batch and alone",
        "positions": f"up to {longest - 1}" + (f" of {needs.positions - 1}" if needs.positions else ""),
    }
    why = f"not covered: capped at {longest} tokens by {free_bytes / 1e9:.1f} GB of free memory"
    if needs.window:
        coverage["sliding window"] = f"{longest} tokens > window {needs.window}" if longest > needs.window else why
    if needs.rope_original:
        reached = longest > needs.rope_original
        coverage["RoPE original length"] = f"{longest} tokens > {needs.rope_original}" if reached else why
    if needs.images:
        coverage["images"] = describe_images(cases)
    if not any("text" in row for row in cases[0].rows):
        coverage["real text"] = "not covered: the checkpoint has no tokenizer that can be read"
    return coverage


def find_longest_length(needs: InputRequirements, free_bytes: int) -> int:
    """Return the length of the longest sequence whose comparison fits its share of the free memory.

    In float64, logits count three times (result, copy in the trace, comparison), activations as 64 vectors of the
    hidden size, the attention of one layer as two (T, T) matrices a head.
    """
    budget, linear, square = (
        free_bytes * LONG_INPUT_MEMORY_SHARE,
        8 * (3 * needs.vocabulary + 64 * needs.hidden),
        16 * needs.heads,
    )
    return int((-linear + (linear**2 + 4 * square * budget) ** 0.5) / (2 * square))


def tokenize_text(checkpoint: Path, vocabulary: int) -> Tensor | None:
    """Return ids int64 (N,) of the shipped text by the checkpoint's own tokenizer; None without one."""
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


def grow_batch(case: InputCase, needs: InputRequirements, factor: int) -> InputCase:
    """Return the batch with `factor` times its random rows, for experts that received no token."""
    more = _draw_ids(needs.vocabulary, case.ids.shape[0] * (factor - 1), case.ids.shape[1], SEED + factor)
    ids = torch.cat([more, case.ids])
    mask = None if case.mask is None else torch.cat([torch.ones_like(more), case.mask])
    return InputCase(case.name, ids, mask, ("random",) * len(more) + case.rows)


def extract_last_document(batch: InputCase) -> InputCase:
    """Return the last document of the batch by itself: no padding, no neighbours, no mask."""
    row = len(batch.ids) - 1
    padding = int((batch.keep[row] == 0).sum())
    ids, rows = batch.ids[row:, padding:], (batch.rows[row],)
    return InputCase("alone", ids, rows=rows, part_of="batch", part=BatchSlice(row, padding))


def _read_rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return nested[0] if nested else rope


def _read_original_length(text: Mapping[str, Any]) -> int | None:
    """Return the length beyond which a scaled RoPE acts differently.

    None where it acts the same at any length.
    """
    rope = _read_rope(text)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        return None
    named = rope.get("original_max_position_embeddings") or text.get("original_max_position_embeddings")
    return named or (text.get("max_position_embeddings") if kind in UNNAMED_SCALINGS else None)


def _fits_batch(needs: InputRequirements, params: TestParams) -> bool:
    return needs.required_length * (params.batch_size + 2) <= BATCH_TOKENS


def _build_batch(
    needs: InputRequirements, params: TestParams, length: int, text: Tensor | None, seed: int
) -> InputCase:
    """Build random rows, a row of text, and two padded documents.

    The documents are two thirds and one third as long as the batch.
    """
    rows = [*_draw_ids(needs.vocabulary, params.batch_size, length, seed)]
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
        rows.append(_draw_ids(needs.vocabulary, 1, length, seed + 10 + third)[0])
        names.append(f"document of {document}")
    return InputCase("batch", torch.stack(rows), mask, tuple(names))


def _describe_case(case: InputCase) -> str:
    """Give shape, rows and a digest of the ids.

    Two runs with the same text saw the same ids. `; ` stands between cases only.
    """
    digest = hashlib.sha256(case.ids.contiguous().numpy().tobytes()).hexdigest()[:8]
    return f"{case.name}: {case.ids.shape[0]} x {case.ids.shape[1]} ({', '.join(case.rows)}, ids {digest})"


def _draw_ids(vocabulary: int, rows: int, length: int, seed: int) -> Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def _describe_padding(batch: InputCase) -> str:
    documents = ", ".join(str(int(row.sum())) for row in batch.keep if not bool(row.all()))
    length = batch.ids.shape[1]
    if not documents:
        return f"not covered: {length} tokens leave no room for padding"
    return f"rows of {documents} tokens in a batch of {length}"


def _describe_vocabulary(needs: InputRequirements, cases: tuple[InputCase, ...]) -> str:
    ids = torch.cat([case.ids.flatten() for case in cases])
    return f"{len(set(ids.tolist()))} of {needs.vocabulary} ids, first and last included"
