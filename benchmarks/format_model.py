"""One small model of a format that Fast-LLM converts, with its entry of the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.format_configs import LLAMA, UNTIED, make_auto_map, make_own_config
from tests.standin.recipes import DENSE, Recipe

EXTERNAL = "fast_llm_external_models"
"""The directory of Fast-LLM's checkout with the modelling code of formats that transformers does not have."""
FAST_LLM, OLDER = "fast_llm", "fast_llm-gemma4"
"""Fast-LLM's environments; the second one has transformers 5.14, for formats that fail with a later one."""


@dataclass(frozen=True)
class FormatModel:
    """One model of a format, with its entry of the registry.

    `recipe` names one of the stand-in's, or is one; else `config` is config.json, and the weights are drawn by
    transformers, or by the modelling code at `code_path` in the environment `code_environment`, or, where that code
    builds nothing on a CPU, by name. With `carries_code` the repository has that code's files beside the weights, with
    `fp8_block` its linear layers are float8 codes with a scale for each such block.
    """

    name: str
    checkpoint_format: str
    recipe: str | Recipe = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    code_environment: str = ""
    code_path: str = ""
    model_config: str = "gpt"
    environment: str = FAST_LLM
    gated: bool = False
    by_name: bool = False
    carries_code: bool = False
    fp8_block: tuple[int, int] | None = None

    @property
    def model_id(self) -> str:
        """The id under which the stand-in Hub serves it."""
        return (self.recipe if isinstance(self.recipe, str) else "") or f"stand-in/{self.name}"

    def make_entry(self, commit: str) -> str:
        """Return the entry of models.toml; `commit` is that of the repository."""
        keys: dict[str, Any] = {"model_id": self.model_id, "checkpoint_format": self.checkpoint_format}
        keys |= {"model_config": self.model_config, "num_layers_to_keep": 2, "groups": ["formats"]}
        if self.code_environment:
            code = {"code_revision": commit} if self.carries_code else {"code_path": self.code_path}
            keys |= {"trust_remote_code": True, "code_environment": self.code_environment, **code}
        if self.environment != FAST_LLM:
            keys["environments"] = [{"subject": "fast_llm", "environment": self.environment}]
        if self.fp8_block:
            keys["dequantize"] = "fp8-blocks"
        factor = 2.0 if self.checkpoint_format == "mixtral" else 1.0
        params = {"batch_size": 2, "sequence_length": 64, "compare_factor": factor}
        tables = [
            f"[[{self.name}.environments]]\n" + "\n".join(_list_pairs(own)) for own in keys.pop("environments", ())
        ]
        lines = [f"[{self.name}]", *_list_pairs(keys), f"[{self.name}.test_params]", *_list_pairs(params), *tables]
        return "\n".join(lines) + "\n"


def _list_pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def make_external(
    checkpoint_format: str, folder: str, code_environment: str, config: Mapping[str, Any], name: str = "", **keys: Any
) -> FormatModel:
    """Return a model whose modelling code lies in Fast-LLM's checkout, called after its format unless named."""
    keys |= {"config": config, "code_environment": code_environment, "code_path": f"{EXTERNAL}/{folder}"}
    return FormatModel(name or checkpoint_format, checkpoint_format, **keys)


def make_plain(name: str, checkpoint_format: str, upstream: str, **changes: Any) -> FormatModel:
    """Return a model of the stand-in's sizes with a published model's further settings."""
    return FormatModel(name, checkpoint_format, Recipe(f"stand-in/{name}", upstream, {**DENSE, **changes}, files=1))


def make_mtp_llama(name: str, **changes: Any) -> FormatModel:
    """Return a model of mtp_llama with three prediction heads, unless changed."""
    sizes = {**LLAMA, **UNTIED, "prediction_heads": 3, "rope_scaling": None, **changes}
    auto_map = make_auto_map("mtp_llama", "MTPLlamaConfig", "MTPLlamaForCausalLM")
    config = make_own_config("mtp_llama", "MTPLlamaForCausalLM", auto_map, **sizes)
    return make_external("mtp_llama", "mtp_llama", "hf-5-14", config, name=name, environment=OLDER)
