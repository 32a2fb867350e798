"""A module in vLLM's place, as far as the adapter calls it: transformers answers in vLLM's records."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

__version__ = "0.32.0"


class SamplingParams:
    """Keeps what it is given."""

    def __init__(self, **settings: Any) -> None:
        defaults = {
            "prompt_logprobs": None,
            "logprobs": None,
            "ignore_eos": False,
            "logit_bias": None,
            "temperature": 1.0,
        }
        own = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
        self.__dict__.update({**defaults, **own, **settings})


class LLM:
    """Loads a directory; refuses one as vLLM does."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **settings: Any) -> None:
        self.made.append(settings)
        directory = Path(settings["model"])
        if not settings["skip_tokenizer_init"]:
            self.tokenizer = AutoTokenizer.from_pretrained(directory)
        config = json.loads((directory / "config.json").read_text())
        if "LlamaForCausalLM" not in config["architectures"]:
            try:
                raise ValueError(f"Model architectures {config['architectures']} are not supported for now.")
            except ValueError as cause:
                raise RuntimeError("Engine core initialization failed.") from cause
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, settings["dtype"])).eval()
        self.generation = json.loads((directory / "generation_config.json").read_text())
        shutdown = SimpleNamespace(shutdown=lambda: None)
        model_config = SimpleNamespace(
            dtype=self.model.dtype,
            hf_config=self.model.config,
            get_and_verify_max_len=lambda asked: asked or config["max_position_embeddings"],
        )
        self.llm_engine = SimpleNamespace(model_config=model_config, engine_core=shutdown)

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        return SamplingParams(**{k: v for k, v in self.generation.items() if k in ("temperature", "top_p", "top_k")})

    @torch.inference_mode()
    def generate(self, prompts: list[dict[str, list[int]]], settings: Any, *, use_tqdm: bool) -> list[Any]:
        return [self._generate(prompt["prompt_token_ids"], settings) for prompt in prompts]

    def _generate(self, prompt: list[int], settings: Any) -> Any:
        ids, said = list(prompt), []
        ends = self.generation["eos_token_id"]
        while len(ids) - len(prompt) < settings.max_tokens:
            logits = self.model(torch.tensor([ids])).logits[0, -1].float()
            for token, bias in (settings.logit_bias or {}).items():
                logits[token] += bias
            said.append(_list_top(logits, settings.logprobs or 1))
            ids.append(int(logits.argmax()))
            if ids[-1] in ends and not settings.ignore_eos:
                break
        logits = self.model(torch.tensor([prompt])).logits[0].float()
        listed = [
            _list_top(row, settings.prompt_logprobs or 1, token) for row, token in zip(logits, prompt[1:], strict=False)
        ]
        finished = "stop" if ids[-1] in ends and not settings.ignore_eos else "length"
        output = SimpleNamespace(token_ids=ids[len(prompt) :], logprobs=said, finish_reason=finished)
        return SimpleNamespace(prompt_token_ids=prompt, prompt_logprobs=[None, *listed], outputs=[output])


def _list_top(logits: torch.Tensor, top: int, also: int | None = None) -> dict[int, Any]:
    """The most likely tokens by id, and one more: in no order, as in vLLM's mapping."""
    logprobs = torch.log_softmax(logits, -1)
    ranks = logprobs.argsort(descending=True).tolist()
    wanted = {*ranks[:top], *([] if also is None else [also])}
    return {t: SimpleNamespace(logprob=float(logprobs[t]), rank=ranks.index(t) + 1) for t in sorted(wanted)}
