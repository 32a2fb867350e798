"""There and back: each changed tensor and key is found, and classified by whether the forward pass reads it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.equivalence.round_trip import (
    KeyChange,
    TensorChange,
    build_round_trip_verdict,
    compare_checkpoints,
    compare_configs,
    resolve_config,
)
from ci.equivalence.verdict import build_verdict
from tests.ci.equivalence.comparisons import compared
from tests.standin.models import repository

if TYPE_CHECKING:
    from pathlib import Path


def copy(tmp_path: Path, **changes: Any) -> Path:
    target = tmp_path / "exported"
    shutil.copytree(repository("stand-in/llama"), target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def key_changes(original: Path, exported: Path) -> tuple[KeyChange, ...]:
    return compare_configs(resolve_config(original), resolve_config(exported))


def test_the_same_directory_has_no_changes(tmp_path: Path) -> None:
    original, exported = repository("stand-in/llama"), copy(tmp_path)
    assert list(compare_checkpoints(original, exported, tied=False)) == []
    assert [f for f in key_changes(original, exported) if f.kind == "semantic"] == []


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
    changes = key_changes(repository("stand-in/llama"), copy(tmp_path, **{key: value}))
    changed = {f.kind for f in changes if f.key == key or "rope" in f.key}
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


MSCALES = {"mscale": 0.7, "mscale_all_dim": 1.3}


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ({**YARN, "attention_factor": 1.2, **MSCALES}, {**YARN, "attention_factor": 1.2}, ["metadata"]),
        ({**YARN, "attention_factor": 1.2, **MSCALES}, {**YARN, "attention_factor": 1.3}, ["semantic"]),
        ({**YARN, "attention_factor": 1.2, **MSCALES}, YARN, ["semantic"]),
        ({**YARN, **MSCALES}, YARN, ["semantic"]),
        (
            {"full_attention": {**YARN, "attention_factor": 1.2, **MSCALES}},
            {"full_attention": {**YARN, "attention_factor": 1.2}},
            ["metadata"],
        ),
    ],
)
def test_keys_that_an_explicit_attention_factor_leaves_unread_are_metadata(
    before: dict[str, Any], after: dict[str, Any], kinds: list[str]
) -> None:
    changes = compare_configs({"rope_parameters": before}, {"rope_parameters": after})
    assert [change.kind for change in changes] == kinds


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


PLAIN, OTHER_BASE = {"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "default", "rope_theta": 5e5}
YARN = {**PLAIN, "rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ({"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_parameters": PLAIN}, {"metadata"}),
        ({"rope_theta": 1e4, "rope_parameters": PLAIN}, {"rope_theta": 1e4}, {"metadata"}),
        ({"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_parameters": OTHER_BASE}, {"semantic"}),
        ({"rope_theta": 1e4}, {"rope_parameters": PLAIN}, {"semantic"}),
        ({"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_parameters": YARN}, {"semantic"}),
        (
            {"rope_theta": 1e4, "rope_scaling": YARN},
            {"rope_theta": 1e4, "rope_parameters": PLAIN},
            {"semantic", "metadata"},
        ),
        ({"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_parameters": {"full_attention": PLAIN}}, {"semantic"}),
    ],
)
def test_a_rope_section_more_that_repeats_the_base_is_metadata(
    before: dict[str, Any], after: dict[str, Any], kinds: set[str]
) -> None:
    """Dream's class of transformers 4.57 knows no `rope_parameters`, which an export wrote beside `rope_theta`."""
    assert {change.kind for change in compare_configs(before, after)} == kinds


def test_each_key_of_a_part_is_classified_by_itself() -> None:
    text = {"model_type": "mistral", "rms_norm_eps": 1e-5, "bos_token_id": 1, "max_position_embeddings": 512}
    after = {"model_type": "llama", "rms_norm_eps": 1e-5, "bos_token_id": 2, "max_position_embeddings": 2048}
    changes = compare_configs({"text_config": text}, {"text_config": after})
    assert {change.key: change.kind for change in changes} == {
        "text_config.bos_token_id": "metadata",
        "text_config.max_position_embeddings": "metadata",
        "text_config.model_type": "semantic",
    }
    (whole,) = compare_configs({"vision_config": {"image_size": 4}}, {"vision_config": None})
    assert (whole.key, whole.kind) == ("vision_config", "semantic"), "a part that is gone is one change"
    tower = {"encoder": {"block": {"mixer": {"rotary": {"max_image_size": 64}}}}}
    other = {"encoder": {"block": {"mixer": {"rotary": {"max_image_size": 1024}}}}}
    (leaf,) = compare_configs({"vision_encoder": tower}, {"vision_encoder": other})
    assert str(leaf) == "vision_encoder.encoder.block.mixer.rotary.max_image_size (semantic): 64 became 1024"


def test_one_changed_bit_is_found(tmp_path: Path) -> None:
    exported = copy(tmp_path)
    shard, tensors = changed_shard(exported)
    name = next(iter(tensors))
    tensors[name].view(torch.int16).reshape(-1)[0] ^= 1
    save_file(tensors, shard, {"format": "pt"})
    changes = list(compare_checkpoints(repository("stand-in/llama"), exported, tied=False))
    assert [(f.name, f.failure_class) for f in changes] == [(name, "numeric_mismatch")]


def test_a_wider_dtype_is_the_same_tensor_and_a_missing_one_is_not(tmp_path: Path) -> None:
    exported = copy(tmp_path)
    shard, tensors = changed_shard(exported)
    lost, *kept = tensors
    save_file({name: tensors[name].float() for name in kept}, shard, {"format": "pt"})
    if (index := exported / "model.safetensors.index.json").exists():
        content = json.loads(index.read_text())
        del content["weight_map"][lost]
        index.write_text(json.dumps(content))
    changes = list(compare_checkpoints(repository("stand-in/llama"), exported, tied=False))
    assert [(f.name, f.failure_class) for f in changes] == [(lost, "missing_tensor")]


def test_there_and_back_says_what_changed_before_how_the_export_runs() -> None:
    passed, failed = build_verdict([compared(1.0)], coverage={}), build_verdict([compared(99.0)], coverage={})
    lost = TensorChange("missing_tensor", "lm_head.weight", "lm_head.weight was not exported")
    semantic, metadata = KeyChange("rope", "semantic", 1, 2), KeyChange("dtype", "metadata", 1, 2)
    whole = build_round_trip_verdict([], [metadata], passed)
    assert whole.passed
    assert whole.notes == ("config dtype (metadata): 1 became 2",)
    for tensors, config, stock, kind in (
        ([lost], [], passed, "missing_tensor"),
        ([], [semantic], passed, "config_mismatch"),
        ([], [], failed, "numeric_mismatch"),
        ([lost], [semantic], failed, "missing_tensor"),
    ):
        verdict = build_round_trip_verdict(tensors, config, stock)
        assert (verdict.passed, verdict.failure_class, verdict.component) == (False, kind, "conversion")
        assert verdict.diagnosis
    assert "(and 1 more)" in build_round_trip_verdict([lost], [semantic], passed).diagnosis
