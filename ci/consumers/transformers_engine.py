"""Serves a checkpoint with transformers itself: the trivial consumer, and Hugging Face's side of the comparison.

As a consumer it runs the attention that transformers chooses, sdpa where it can; the other side runs eager attention.
"""

from __future__ import annotations

import inspect
import json
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ci.consumers.base import BATCH_INVARIANT, CONVERSATION, TEXT, ConsumerDescription, ContinueResult, ScoreResult
from ci.consumers.score_files import Continuation, Scores, make_empty_continuation, make_empty_scores
from ci.errors import SubjectError
from ci.subjects.failure import to_one_line
from ci.subjects.forward import DTYPES, exact_arithmetic, read_inputs
from ci.subjects.model_cache import ModelCache, checkpoint_key

if TYPE_CHECKING:
    from torch import Tensor

    from ci.consumers.base import ContinueRequest, ScoreRequest

SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "do_sample")
"""Keys of a generation config that change what is generated."""


@dataclass
class TransformersEngine:
    """Scores and continues tokens, row by row and without padding. The last model stays loaded until `release`."""

    attention: str | None = None
    _cache: ModelCache[Any] = field(default_factory=ModelCache, init=False, repr=False)

    def describe(self) -> ConsumerDescription:
        """Return the versions of transformers and torch."""
        libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
        flags = {"attention": self.attention or "as transformers chooses", BATCH_INVARIANT: "rows run one by one"}
        return ConsumerDescription(
            "transformers", libraries["transformers"], platform.python_version(), libraries, flags
        )

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Write the log-probability of each token of the inputs, and the most likely tokens."""
        inputs = read_inputs(Path(request.inputs))
        model, load_seconds = self._load(request)
        scores, started, tokens = make_empty_scores(inputs.ids, request.top), time.perf_counter(), 0
        inputs.check_vocabulary(model.get_input_embeddings().num_embeddings)
        with exact_arithmetic(), torch.inference_mode():
            for row in range(len(inputs.ids)):
                padding, ids = inputs.count_padding(row), inputs.select_row(row).ids.to(request.device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
                _fill_scores(scores, row, padding + 1, logits, ids[0, 1:], request.top)
                tokens += ids.shape[1] - 1
        scores.write(Path(request.output))
        seconds = time.perf_counter() - started
        return ScoreResult(tokens, _name_dtype(model.dtype), seconds, load_seconds, _find_tokenizer(request)[1])

    def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
        """Write a greedy continuation of each row, and tell at which tokens generation ends."""
        inputs = read_inputs(Path(request.inputs))
        model, _ = self._load(request)
        written = make_empty_continuation(len(inputs.ids), request.tokens, request.top)
        started = time.perf_counter()
        with exact_arithmetic(), torch.inference_mode():
            for row in range(len(inputs.ids)):
                _continue_row(model, inputs.select_row(row).ids.to(request.device), written, row, request.top)
        written.write(Path(request.output))
        generation = model.generation_config
        ends = generation.eos_token_id
        stop_ids = set(ends if isinstance(ends, list) else [ends])
        tokenizer = _find_tokenizer(request)[0]
        return ContinueResult(
            seconds=time.perf_counter() - started,
            stops={str(token): token in stop_ids for token in request.stop_ids},
            sampling={key: json.dumps(getattr(generation, key, None)) for key in SAMPLING},
            chat_ids=render_conversation(tokenizer),
            default_dtype=_read_declared_dtype(request.checkpoint),
            text_ids=tokenize_text(tokenizer),
            context=int(getattr(model.config, "max_position_embeddings", 0) or 0),
        )

    def release(self) -> None:
        """Unload the model."""
        self._cache.release()

    def _load(self, request: ScoreRequest | ContinueRequest) -> tuple[Any, float]:
        key = (*checkpoint_key(request.checkpoint), request.dtype, request.device)
        return self._cache.get(key, lambda: self._read(request), device=request.device)

    def _read(self, request: ScoreRequest | ContinueRequest) -> Any:
        from transformers import AutoModelForCausalLM

        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                request.checkpoint,
                dtype="auto" if request.dtype == "auto" else DTYPES[request.dtype],
                attn_implementation=self.attention,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                device_map=None if request.device == "cpu" else {"": request.device},
            )
        except Exception as problem:  # whatever transformers raises about a checkpoint is a finding about it
            raise SubjectError(f"{type(problem).__name__}: {to_one_line(str(problem))}") from problem
        if missing := sorted(info["missing_keys"]):
            raise SubjectError(f"tensors are missing: {', '.join(missing[:5])}")
        return model.eval()


def render_conversation(tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the fixed conversation, empty where the tokenizer has no chat template."""
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return ()
    text = tokenizer.apply_chat_template(list(CONVERSATION), tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def tokenize_text(tokenizer: Any) -> tuple[int, ...]:
    """Tokenize the fixed text as a prompt, with the tokens that the tokenizer adds itself."""
    return () if tokenizer is None else tuple(tokenizer.encode(TEXT))


def _find_tokenizer(request: ScoreRequest | ContinueRequest) -> tuple[Any, str]:
    """Return the checkpoint's tokenizer, or None and why it does not load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(request.checkpoint, local_files_only=True, trust_remote_code=False), ""
    except Exception as problem:  # the library raises many kinds for files that are missing or damaged
        return None, f"tokenizer does not load: {to_one_line(str(problem), 200)}"


def _fill_scores(scores: Scores, row: int, first: int, logits: Tensor, ids: Tensor, top: int) -> None:
    """Fill one row from position `first` on: logits (n, vocabulary) predict `ids` (n,)."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    best = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    place = (row, slice(first, first + len(ids)))
    scores.logprobs[place] = logprobs.gather(-1, ids[:, None])[:, 0].cpu()
    scores.top_ids[place], scores.top_logprobs[place] = best.indices.cpu(), best.values.cpu()


def _continue_row(model: Any, ids: Tensor, written: Continuation, row: int, top: int) -> None:
    """Continue ids (1, T) greedily, with a key-value cache."""
    from transformers import DynamicCache

    kept = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"  # 5.24 renamed it
    cache = {kept: DynamicCache(config=model.config), "use_cache": True}
    for step in range(written.ids.shape[1]):
        logprobs = torch.log_softmax(model(input_ids=ids, **cache).logits[0, -1].float(), dim=-1)
        best = logprobs.topk(min(top, len(logprobs)))
        ids = best.indices[:1][None]
        written.ids[row, step] = int(ids)
        written.top_ids[row, step], written.top_logprobs[row, step] = best.indices.cpu(), best.values.cpu()


def _read_declared_dtype(checkpoint: str) -> str:
    """Return the dtype that the config declares: a loaded model's config says in which it was loaded."""
    from transformers import AutoConfig

    declared = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False).dtype
    return _name_dtype(declared) if isinstance(declared, torch.dtype) else str(declared or "")


def _name_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
