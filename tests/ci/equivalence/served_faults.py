"""Faults of an export, each planted into a copy of a checkpoint: twelve of known issues, and their kin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.ci.equivalence.served_models import GENERATION, TEMPLATE, edit_config, edit_json, edit_tensors
from tests.standin.models import write_json

if TYPE_CHECKING:
    from torch import Tensor


UNKNOWN_ROPE = {"rope_type": "yarn3", "factor": 8.0}
SCORES = "scores the export's tokens"


@dataclass(frozen=True)
class Fault:
    """A fault of an export of `model`; with `files` its weights are right, and what stands beside them is not.

    `named` are words of the diagnosis that say what kind of fault it is.
    """

    model: str
    plant: Callable[[Path], None]
    files: bool = False
    named: str = SCORES


def _drop_bias(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.endswith("bias")]:
        tensors[name] = torch.zeros_like(tensors[name])


def _transpose(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name].T


def _reorder_experts(tensors: dict[str, Tensor]) -> None:
    one, other = (f"model.layers.1.block_sparse_moe.experts.{expert}." for expert in (0, 1))
    for part in ("w1.weight", "w2.weight", "w3.weight"):
        tensors[one + part], tensors[other + part] = tensors[other + part], tensors[one + part]


def _round_to_float16(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.half().to(tensor.dtype)


def _rename(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.1.mlp.gate_projection.weight"] = tensors.pop("model.layers.1.mlp.gate_proj.weight")


def _untie(directory: Path) -> None:
    def add_head(tensors: dict[str, Tensor]) -> None:
        embeddings = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1)) * 0.1

    edit_tensors(add_head, directory)
    edit_config({"tie_word_embeddings": False}, directory)


def _pad_vocabulary(directory: Path) -> None:
    def pad(tensors: dict[str, Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.nn.functional.pad(tensors[name], (0, 0, 0, 384 - len(tensors[name])))

    edit_tensors(pad, directory)
    edit_config({"vocab_size": 384}, directory)


def _change_end(directory: Path) -> None:
    write_json(directory / "generation_config.json", GENERATION | {"eos_token_id": 7})


def _remove_generation_config(directory: Path) -> None:
    (directory / "generation_config.json").unlink()


def _round_layer(tensors: dict[str, Tensor]) -> None:
    """float16 in between, of the last layer alone."""
    for name in [name for name in tensors if name.startswith("model.layers.1.")]:
        tensors[name] = tensors[name].half().to(tensors[name].dtype)


def _swap_layers(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.0.")]:
        other = name.replace("layers.0.", "layers.1.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def _swap_query_and_key_norm(tensors: dict[str, Tensor]) -> None:
    one, other = (f"model.layers.1.self_attn.{name}_norm.weight" for name in "qk")
    tensors[one], tensors[other] = tensors[other], tensors[one]


def _shift_vocabulary(tensors: dict[str, Tensor]) -> None:
    """One row of the head is written twice, as by a tokenizer with one token more."""
    tensors["lm_head.weight"] = torch.roll(tensors["lm_head.weight"], 1, 0)


def _double_rope_base(directory: Path) -> None:
    edit_config({"rope_theta": 2 * json.loads((directory / "config.json").read_text())["rope_theta"]}, directory)


def _change_rope(directory: Path) -> None:
    rope = json.loads((directory / "config.json").read_text())["rope_parameters"]
    edit_config({"rope_parameters": {k: v for k, v in rope.items() if k != "partial_rotary_factor"}}, directory)


def _add_beginning(directory: Path) -> None:
    """The tokenizer puts <s> before a text: its post-processor is what tokenizer libraries read."""
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
    }
    edit_json("tokenizer.json", {"post_processor": template}, directory)


def _change_template_end(directory: Path) -> None:
    edit_json("tokenizer_config.json", {"chat_template": TEMPLATE.replace("</s>", "<s>")}, directory)


def _forget_second_end(directory: Path) -> None:
    write_json(directory / "generation_config.json", GENERATION | {"eos_token_id": 257})


def _add_end(directory: Path) -> None:
    write_json(directory / "generation_config.json", GENERATION | {"eos_token_id": [257, 42, 7]})


def _lose_tensor(tensors: dict[str, Tensor]) -> None:
    del tensors["model.layers.1.self_attn.o_proj.weight"]


def _cut_vocabulary(tensors: dict[str, Tensor]) -> None:
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:-1]


def _remove_tokenizer(directory: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink()


FAULTS = {
    "dropped bias": Fault("qwen2", partial(edit_tensors, _drop_bias)),
    "lost head_dim": Fault("head-dim", partial(edit_config, {"head_dim": None}), named=f"{SCORES}|another shape"),
    "lost RoPE scaling": Fault("llama", partial(edit_config, {"rope_scaling": None})),
    "wrong EOS": Fault("llama", _change_end, files=True, named="served stop ids"),
    "untied head": Fault("smollm2", _untie),
    "transposed projection": Fault("llama", partial(edit_tensors, _transpose)),
    "experts in another order": Fault("mixtral", partial(edit_tensors, _reorder_experts)),
    "float16 in between": Fault("llama", partial(edit_tensors, _round_to_float16)),
    "padded vocabulary": Fault("llama", _pad_vocabulary),
    "missing generation config": Fault("llama", _remove_generation_config, files=True, named="served stop ids"),
    "another dtype": Fault("llama", partial(edit_config, {"torch_dtype": "float16"}), files=True, named="served dtype"),
    "renamed key": Fault("llama", partial(edit_tensors, _rename), named="a tensor is missing, or has another name"),
}
"""Twelve faults of exports that issues of real projects tell of."""
KIN = {
    "RoPE base changed": Fault("llama", _double_rope_base),
    "norm epsilon changed": Fault("llama", partial(edit_config, {"rms_norm_eps": 1e-6})),
    "attention multiplier lost": Fault("granite", partial(edit_config, {"attention_multiplier": None})),
    "sliding window dropped": Fault("mistral", partial(edit_config, {"sliding_window": None})),
    "beginning added by the tokenizer": Fault("llama", _add_beginning, files=True, named="served tokenization"),
    "chat template ends otherwise": Fault("llama", _change_template_end, files=True, named="served chat template"),
    "router normalisation lost": Fault("qwen3-moe", partial(edit_config, {"norm_topk_prob": None})),
    "float16 in one layer": Fault("llama", partial(edit_tensors, _round_layer)),
    "layers swapped": Fault("llama", partial(edit_tensors, _swap_layers)),
    "norms of query and key swapped": Fault("qwen3", partial(edit_tensors, _swap_query_and_key_norm)),
    "vocabulary shifted by one": Fault("llama", partial(edit_tensors, _shift_vocabulary)),
    "fewer experts for a token": Fault("mixtral", partial(edit_config, {"num_experts_per_tok": 1})),
    "another activation": Fault("starcoder2", partial(edit_config, {"hidden_act": "gelu"})),
    "logits' soft cap lost": Fault("gemma2", partial(edit_config, {"final_logit_softcapping": None})),
    "partial RoPE lost": Fault("stablelm", _change_rope),
    "context shortened": Fault(
        "llama", partial(edit_config, {"max_position_embeddings": 300}), files=True, named="served context"
    ),
    "second end forgotten": Fault("llama", _forget_second_end, files=True, named="served stop ids"),
    "further end": Fault("llama", _add_end, files=True, named="generation ends at token 7"),
    "tensor lost": Fault("llama", partial(edit_tensors, _lose_tensor), named="a tensor is missing"),
    "vocabulary cut": Fault("llama", partial(edit_tensors, _cut_vocabulary), named="another shape"),
    "unknown RoPE": Fault("llama", partial(edit_config, {"rope_scaling": UNKNOWN_ROPE}), named="understand the config"),
    "tokenizer lost": Fault("llama", _remove_tokenizer, files=True, named="served tokenizer"),
    "architecture renamed": Fault(
        "llama", partial(edit_config, {"architectures": ["LamaForCausalLM"], "model_type": "lama"}), named="refuses"
    ),
}
"""Faults that were planted after the rule stood, and that nothing in it knows of."""


def plant_fault(fault: Fault, original: Path, directory: Path) -> Path:
    """Return a copy of `original` with the fault in it."""
    shutil.copytree(original, directory)
    fault.plant(directory)
    return directory
