import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.roundtrip import compare_configs, config_findings, tensor_findings
from tests.standin.models import repository


def copy(tmp_path: Path, **changes: Any) -> Path:
    target = tmp_path / "exported"
    shutil.copytree(repository("stand-in/llama"), target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_the_same_directory_has_no_findings(tmp_path: Path) -> None:
    original, exported = repository("stand-in/llama"), copy(tmp_path)
    assert list(tensor_findings(original, exported, tied=False)) == []
    assert [f for f in config_findings(original, exported) if f.kind == "semantic"] == []


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("rms_norm_eps", 1e-3, "semantic"),
        ("rope_theta", 123.0, "semantic"),
        ("hidden_act", "gelu", "semantic"),
        ("bos_token_id", 7, "metadata"),
        ("use_cache", False, "metadata"),
    ],
)
def test_a_changed_key_is_classified(tmp_path: Path, key: str, value: Any, kind: str) -> None:
    found = config_findings(repository("stand-in/llama"), copy(tmp_path, **{key: value}))
    changed = {f.kind for f in found if f.key == key or "rope" in f.key}
    assert kind in changed


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ({"use_mrope": False}, {}, ["metadata"]),
        ({}, {"use_mrope": None}, []),
        ({"use_mrope": True}, {}, ["semantic"]),
        ({"mlp_bias": False}, {"mlp_bias": True}, ["semantic"]),
    ],
)
def test_a_switch_that_is_off_and_one_that_is_absent_mean_the_same(
    before: dict[str, Any], after: dict[str, Any], kinds: list[str]
) -> None:
    assert [f.kind for f in compare_configs(before, after)] == kinds


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}


@pytest.mark.parametrize(
    ("rope", "kind"),
    [
        ({"rope_type": "default"}, "metadata"),
        (YARN, "metadata"),
        ({"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}, "metadata"),
        ({**YARN, "factor": None}, "semantic"),
        ({"full_attention": {**YARN, "factor": None}}, "semantic"),
        ({"rope_type": "dynamic", "factor": 4.0}, "semantic"),
    ],
)
def test_the_longest_position_matters_where_rope_reads_it(rope: dict[str, Any], kind: str) -> None:
    before = {"max_position_embeddings": 512, "rope_parameters": rope}
    assert [f.kind for f in compare_configs(before, {**before, "max_position_embeddings": 2048})] == [kind]


def changed_shard(directory: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    shard = min(directory.glob("*.safetensors"))
    return shard, load_file(shard)


def test_one_changed_bit_is_found(tmp_path: Path) -> None:
    exported = copy(tmp_path)
    shard, tensors = changed_shard(exported)
    name = next(iter(tensors))
    tensors[name].view(torch.int16).reshape(-1)[0] ^= 1
    save_file(tensors, shard, {"format": "pt"})
    found = list(tensor_findings(repository("stand-in/llama"), exported, tied=False))
    assert [(f.name, f.failure_class) for f in found] == [(name, "numeric_mismatch")]


def test_a_wider_dtype_is_the_same_tensor_and_a_missing_one_is_not(tmp_path: Path) -> None:
    exported = copy(tmp_path)
    shard, tensors = changed_shard(exported)
    lost, *kept = tensors
    save_file({name: tensors[name].float() for name in kept}, shard, {"format": "pt"})
    if (index := exported / "model.safetensors.index.json").exists():
        content = json.loads(index.read_text())
        del content["weight_map"][lost]
        index.write_text(json.dumps(content))
    found = list(tensor_findings(repository("stand-in/llama"), exported, tied=False))
    assert [(f.name, f.failure_class) for f in found] == [(lost, "missing_tensor")]
