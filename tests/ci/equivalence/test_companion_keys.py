"""The rows of config.json's keys: each one judged by what transformers and other readers make of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.equivalence.companion_keys import UNRESOLVED, list_config_keys, list_generation_keys
from ci.equivalence.companions import compare_companions
from ci.equivalence.export_files import open_exported
from ci.equivalence.round_trip import KeyChange, compare_configs
from ci.subjects.sandbox import NO_SANDBOX

if TYPE_CHECKING:
    from pathlib import Path

    from ci.equivalence.export_files import ExportedFiles

TEXT = {"model_type": "mistral", "hidden_act": "silu", "max_position_embeddings": 512, "rope_theta": 1e4}
VISION = {"model_type": "pixtral", "image_size": 64, "rope_theta": 1e4}
SEES = {"model_type": "llava", "eos_token_id": 257, "text_config": TEXT, "vision_config": VISION}


def write(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> ExportedFiles:
    for name, config in (("original", before), ("exported", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return open_exported(tmp_path / "original", tmp_path / "exported")


def test_each_key_of_a_part_is_judged_by_itself(tmp_path: Path) -> None:
    """One key of text_config that the forward pass reads does not make defects of its neighbours."""
    rope = {"rope_theta": 1e4, "rope_type": "default"}
    text = {"model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 2048, "rope_parameters": rope}
    after = {"model_type": "llava", "text_config": {**text, "use_cache": True, "eos_token_id": 2}}
    after["vision_config"] = {**VISION, "image_size": 1024}
    files = write(tmp_path, SEES, after)
    resolved = ({**SEES, "text_config": {**TEXT, "rope_parameters": rope}}, after)
    changes = [c for c in compare_configs(*resolved) if not c.key.endswith("rope_theta")]
    rows = {row.name: (row.judgement, row.fate) for row in list_config_keys(files, changes) if row.fate != "kept"}
    assert rows == {
        "eos_token_id": ("finding", "dropped"),
        "text_config.model_type": ("defect", "changed"),
        "text_config.max_position_embeddings": ("finding", "changed"),
        "text_config.rope_theta": ("permitted", "dropped"),
        "text_config.rope_parameters.rope_theta": ("permitted", "added"),
        "text_config.rope_parameters.rope_type": ("permitted", "added"),
        "text_config.use_cache": ("permitted", "added"),
        "text_config.eos_token_id": ("permitted", "added"),
        "vision_config.image_size": ("defect", "changed"),
    }


def test_a_leaf_deep_in_a_nested_decoder_has_a_row_of_its_own(tmp_path: Path) -> None:
    def nest(theta: float) -> dict[str, Any]:
        rotary = {"type": "mistral_1d", "theta": theta}
        return {"decoder": {"block": {"mixer": {"mixers": {"attention": {"heads": 6, "rotary": rotary}}}}}}

    files = write(tmp_path, nest(1e4), nest(1e6))
    changes = compare_configs(nest(1e4), nest(1e6))
    (row,) = (row for row in list_config_keys(files, changes) if row.fate != "kept")
    assert row.name == "decoder.block.mixer.mixers.attention.rotary.theta"
    assert (row.judgement, row.before, row.after) == ("defect", "10000.0", "1000000.0")


@pytest.mark.parametrize(
    ("key", "judgement", "reason"),
    [
        ("hidden_act", "finding", UNRESOLVED),
        ("use_cache", "permitted", "no forward pass of a finished model reads it"),
        ("eos_token_id", "finding", "generation reads it"),
        ("transformers_version", "permitted", "it says who wrote the file"),
    ],
)
def test_where_transformers_reads_no_config_a_change_is_a_finding(
    key: str, judgement: str, reason: str, tmp_path: Path
) -> None:
    files = write(tmp_path, {key: "a", "kept": 1}, {key: "b", "kept": 1})
    (row,) = (row for row in list_config_keys(files, None) if row.fate != "kept")
    assert (row.judgement, row.reason) == (judgement, reason)
    rows, findings = compare_companions(files.original.path, files.exported.path, None, NO_SANDBOX)
    assert bool(findings) == any(one.judgement == "finding" for one in rows)
    assert [finding for finding in findings if UNRESOLVED in finding] == (
        [f"export: config.json changed: hidden_act; {UNRESOLVED}"] if key == "hidden_act" else []
    )


def test_a_default_that_no_file_says_is_told_once(tmp_path: Path) -> None:
    files = write(tmp_path, {"a": 1}, {"a": 1})
    (row,) = (row for row in list_config_keys(files, [KeyChange("b", "semantic", 1, 2)]) if row.fate != "kept")
    assert (row.name, row.judgement, row.reason) == ("b", "defect", "transformers fills it in otherwise")


def test_a_generation_config_that_says_other_ids_is_a_finding_for_each(tmp_path: Path) -> None:
    files = write(tmp_path, {}, {})
    for directory, ids in zip(files.both, ({"eos_token_id": 2}, {"eos_token_id": 151643}), strict=True):
        (directory.path / "generation_config.json").write_text(json.dumps({**ids, "transformers_version": str(ids)}))
    rows = {row.name: (row.fate, row.judgement) for row in list_generation_keys(files)}
    assert rows == {"eos_token_id": ("changed", "finding"), "transformers_version": ("changed", "permitted")}
