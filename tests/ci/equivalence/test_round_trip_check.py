"""Exports of real small models: a lost bit, key, companion or config is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from ci.equivalence.companion_keys import UNRESOLVED
from ci.subjects.base import DType, ExportRequest
from ci.subjects.reference.subject import ReferenceSubject

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.mutation.experiment import Experiment
    from ci.models import Policy


def exported(experiment: Experiment, name: str, dtype: DType = "float32") -> Path:
    target, kind = experiment.workdir / name, experiment.tiny_model.model_type
    ReferenceSubject().export(ExportRequest(str(experiment.converted), str(target), kind, dtype=dtype))
    return target


def test_there_and_back(dense: Experiment) -> None:
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_round_trip(str(exported(dense, "back")))
    assert verdict.passed, verdict.diagnosis
    assert "config dtype (metadata): 'bfloat16' became 'float32'" in verdict.notes


def test_one_bit_is_a_difference(dense: Experiment) -> None:
    target = exported(dense, "one-bit")
    file = next(target.glob("*.safetensors"))
    weights = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name][3, 4] *= 1 + 2**-23
    save_file(weights, file)
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_round_trip(str(target))
    assert not verdict.passed
    assert verdict.failure_class == "numeric_mismatch"
    assert name in verdict.diagnosis


def test_a_semantic_key_is_a_difference(dense: Experiment) -> None:
    target = exported(dense, "one-key")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_round_trip(str(target))
    assert not verdict.passed
    assert verdict.failure_class == "config_mismatch"
    assert "hidden_act (semantic): 'silu' became 'relu'" in verdict.diagnosis


@pytest.mark.parametrize(("policy", "failure"), [("warn", None), ("strict", "export_incomplete")])
def test_what_an_export_loses_beside_its_weights_is_a_warning_or_red(
    dense: Experiment, policy: Policy, failure: str | None
) -> None:
    target = exported(dense, f"lossy-{policy}", "bfloat16")
    (target / "generation_config.json").unlink()
    judge = dense.judge(ReferenceSubject(), dense.converted)
    judge.inputs = replace(judge.inputs, model=replace(dense.model, export_policy=policy))
    verdict = judge.check_round_trip(str(target))
    assert (verdict.passed, verdict.failure_class) == (failure is None, failure)
    assert verdict.warnings == ("export: generation_config.json not exported",)
    assert ("generation_config.json" in verdict.diagnosis) == (failure is not None)


def test_an_export_that_does_not_load_is_a_finding(dense: Experiment) -> None:
    target = exported(dense, "broken")
    (target / "config.json").write_text("{}")
    verdict = dense.judge(ReferenceSubject(), dense.converted).check_round_trip(str(target))
    assert not verdict.passed
    assert "refuses" in verdict.diagnosis
    rows = {(row.part, row.name): row for row in verdict.companions}
    kept = {name for (part, name), row in rows.items() if part == "generation_config.json" and row.fate == "kept"}
    assert kept == set(json.loads((target / "generation_config.json").read_text())), "told all the same"
    assert rows["config.json", "hidden_act"].reason == UNRESOLVED
    assert any("hidden_act" in warning for warning in verdict.warnings)
    next(target.glob("*.safetensors")).write_bytes(b"x")
    damaged = dense.judge(ReferenceSubject(), dense.converted).check_round_trip(str(target))
    assert (damaged.passed, damaged.diagnosis) == (False, verdict.diagnosis)
