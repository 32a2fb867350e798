"""Serves a checkpoint with vLLM: its CPU build, or a GPU build where the request names a GPU.

The engine runs in this process and eagerly. https://docs.vllm.ai/en/latest/api/vllm/ describes `LLM`.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.companion_files import TOKENIZER_FILES, list_files
from ci.consumers.base import BATCH_INVARIANT, ConsumerDescription, ContinueResult, ScoreResult
from ci.consumers.score_files import make_empty_continuation, make_empty_scores
from ci.consumers.transformers_engine import render_conversation, tokenize_text
from ci.errors import SubjectError
from ci.subjects.failure import to_one_line
from ci.subjects.forward import Inputs, read_inputs
from ci.subjects.model_cache import Key, checkpoint_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ci.consumers.base import ContinueRequest, ScoreRequest

VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # an exception of the engine's own process would lose its words
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by itself it takes a share of the machine's memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",  # what compiles takes longer here than what runs
}
"""Set before vLLM is imported, where the environment does not set them."""
LEAST_LENGTH = 1024
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
STOP_BIAS = 100.0
"""Added to the logit of a token that shall come next: vLLM's largest."""


@dataclass
class VllmEngine:
    """Scores and continues tokens with vLLM. The last engine stays until another checkpoint, or `release`."""

    _engine: Any = field(default=None, init=False, repr=False)
    _key: Key = field(default=(), init=False)
    _length: int = field(default=0, init=False)
    _tokenizer: str = field(default="", init=False)

    def describe(self) -> ConsumerDescription:
        """Return the versions of vLLM and what it stands on, and the flags of the engine."""
        vllm = _import_vllm()
        libraries = {
            name: found for name in ("torch", "transformers", "tokenizers", "triton") if (found := _find(name))
        }
        flags = {"engine": "in this process, enforce_eager, no prefix cache", BATCH_INVARIANT: _describe_invariance()}
        return ConsumerDescription("vllm", str(vllm.__version__), platform.python_version(), libraries, flags)

    def prepare(self) -> None:
        """Import vLLM."""
        _import_vllm()

    def score(self, request: ScoreRequest) -> ScoreResult:
        """Write the log-probability of each token of the inputs, and the most likely tokens."""
        inputs = read_inputs(Path(request.inputs))
        load_seconds = self._load(request, inputs.ids.shape[1] + 1)
        started = time.perf_counter()
        outputs = self._generate(inputs, prompt_logprobs=request.top, max_tokens=1, ignore_eos=True)
        scores, tokens = make_empty_scores(inputs.ids, request.top), 0
        for row, output in enumerate(outputs):
            first = inputs.count_padding(row)
            for position, said in enumerate(output.prompt_logprobs):
                if said is not None:
                    place = (row, first + position)
                    scores.logprobs[place] = said[output.prompt_token_ids[position]].logprob
                    _fill_top(scores.top_ids[place], scores.top_logprobs[place], said)
                    tokens += 1
        scores.write(Path(request.output))
        dtype = str(self._engine.llm_engine.model_config.dtype).removeprefix("torch.")
        return ScoreResult(tokens, dtype, time.perf_counter() - started, load_seconds, self._tokenizer)

    def continue_greedily(self, request: ContinueRequest) -> ContinueResult:
        """Write a greedy continuation of each row, and tell at which tokens generation ends."""
        inputs = read_inputs(Path(request.inputs))
        self._load(request, inputs.ids.shape[1] + request.tokens)
        started = time.perf_counter()
        written = make_empty_continuation(len(inputs.ids), request.tokens, request.top)
        outputs = self._generate(inputs, logprobs=request.top, max_tokens=request.tokens, ignore_eos=True)
        for row, output in enumerate(outputs):
            for step, (token, said) in enumerate(
                zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
            ):
                written.ids[row, step] = token
                _fill_top(written.top_ids[row, step], written.top_logprobs[row, step], said)
        written.write(Path(request.output))
        defaults = self._engine.get_default_sampling_params()
        config = self._engine.llm_engine.model_config
        tokenizer = None if self._tokenizer else self._engine.get_tokenizer()
        return ContinueResult(
            seconds=time.perf_counter() - started,
            stops={str(token): self._stops_at(inputs, token) for token in request.stop_ids},
            sampling={key: json.dumps(getattr(defaults, key)) for key in SAMPLING},
            chat_ids=render_conversation(tokenizer),
            default_dtype=str(getattr(config.hf_config, "dtype", "") or "").removeprefix("torch."),
            text_ids=tokenize_text(tokenizer),
            context=_find_context(config),
        )

    def release(self) -> None:
        """Shut the engine down and return its memory."""
        engine, self._engine, self._key = self._engine, None, ()
        if engine is not None:
            engine.llm_engine.engine_core.shutdown()
            del engine
            gc.collect()

    def _load(self, request: ScoreRequest | ContinueRequest, length: int) -> float:
        """Start the engine for a request, unless it runs; return the seconds that took."""
        key = (*checkpoint_key(request.checkpoint), request.dtype, request.device)
        if key == self._key and length <= self._length:
            return 0.0
        self.release()
        started, self._tokenizer = time.perf_counter(), ""
        self._length = max(length, LEAST_LENGTH)
        if not list_files(Path(request.checkpoint), TOKENIZER_FILES):
            self._tokenizer = "no tokenizer file in the checkpoint"
        try:
            self._engine = self._start(request)
        except SubjectError as refused:
            self._engine = self._start_without_tokenizer(request, refused)
        self._key = key
        return time.perf_counter() - started

    def _start_without_tokenizer(self, request: ScoreRequest | ContinueRequest, refused: SubjectError) -> Any:
        """Start the engine without a tokenizer, which was the fault then. Raises the first refusal where it is not."""
        if self._tokenizer:
            raise refused
        self._tokenizer = to_one_line(f"the tokenizer does not load: {refused}", 300)
        try:
            return self._start(request)
        except SubjectError:
            raise refused from None

    def _start(self, request: ScoreRequest | ContinueRequest) -> Any:
        settings = {"gpu_memory_utilization": 0.5} if request.device != "cpu" else {}
        limit = _read_context(Path(request.checkpoint))
        try:
            return _import_vllm().LLM(
                model=request.checkpoint,
                dtype=request.dtype,
                enforce_eager=True,
                max_model_len=min(self._length, limit) if limit else self._length,
                max_logprobs=request.top,
                skip_tokenizer_init=bool(self._tokenizer),
                enable_prefix_caching=False,
                trust_remote_code=False,
                disable_log_stats=True,
                seed=0,
                **settings,
            )
        except Exception as problem:  # whatever vLLM raises about a checkpoint is a finding about it
            raise SubjectError(f"{type(problem).__name__}: {to_one_line(_find_origin(problem))}") from problem

    def _generate(self, inputs: Inputs, **sampling: Any) -> Sequence[Any]:
        """Generate greedily after each row, without its padding."""
        vllm = _import_vllm()
        prompts = [{"prompt_token_ids": inputs.select_row(row).ids[0].tolist()} for row in range(len(inputs.ids))]
        settings = vllm.SamplingParams(temperature=0.0, detokenize=False, **sampling)
        try:
            outputs: Sequence[Any] = self._engine.generate(prompts, settings, use_tqdm=False)
        except Exception as problem:
            raise SubjectError(f"{type(problem).__name__}: {to_one_line(str(problem))}") from problem
        return outputs

    def _stops_at(self, inputs: Inputs, token: int) -> bool:
        """Tell whether a generation that is made to give `token` ends with it."""
        (output,) = self._generate(inputs.select_row(0), logit_bias={token: STOP_BIAS}, max_tokens=2)
        return output.outputs[0].finish_reason == "stop" and list(output.outputs[0].token_ids) == [token]


def _import_vllm() -> Any:
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    return import_module("vllm")


def _fill_top(ids: Tensor, logprobs: Tensor, said: Mapping[int, Any]) -> None:
    """Fill the most likely tokens (k,) of one position, best first, from vLLM's mapping of ids."""
    ranked = sorted(said.items(), key=lambda item: item[1].rank)[: len(ids)]
    for place, (token, entry) in enumerate(ranked):
        ids[place], logprobs[place] = token, entry.logprob


def _find_origin(problem: BaseException) -> str:
    """Return the words of the first exception of a chain: later ones say only that the engine did not start."""
    while (earlier := problem.__cause__ or problem.__context__) is not None and str(earlier):
        problem = earlier
    return str(problem)


def _find(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _describe_invariance() -> str:
    import torch

    if not torch.cuda.is_available():
        return "not offered on CPU"
    return "on" if os.environ.get("VLLM_BATCH_INVARIANT") == "1" else "off; VLLM_BATCH_INVARIANT=1 switches it on"


def _find_context(config: Any) -> int:
    """Return the context that vLLM would serve by itself, 0 where this version does not say."""
    try:
        return int(config.get_and_verify_max_len(None))
    except (AttributeError, TypeError, ValueError):
        return 0


def _read_context(checkpoint: Path) -> int:
    """Return the longest context that the config allows, 0 where it does not say."""
    try:
        config = json.loads((checkpoint / "config.json").read_bytes())
    except (OSError, ValueError):
        return 0
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else 0
