"""The names of weights by format, on both sides."""

from __future__ import annotations

from ci.subjects.reference.convert import list_parameters
from ci.subjects.reference.offer import OFFER
from ci.subjects.reference.weight_names import (
    WEIGHT_NAMES,
    WeightNames,
    find_weight_names,
    name_prediction_block,
    name_prediction_norm,
)
from tests.ci.subjects.reference.test_config_json import read


def test_a_format_without_names_of_its_own_has_llamas() -> None:
    assert find_weight_names("qwen2") == find_weight_names("unknown") == WeightNames()
    assert {*WEIGHT_NAMES} <= {*OFFER.formats}


def test_further_heads_follow_the_main_one() -> None:
    parts = {p.name: p.parts[0].name for p in list_parameters(read("mtp"), find_weight_names("mtp_llama"))}
    assert parts["head.final_norm.weight"] == "model.mtp_norms.0.weight"
    assert parts[name_prediction_norm(2)] == "model.mtp_norms.2.weight"
    assert parts[f"{name_prediction_block(2)}.mixer.query.weight"] == "model.mtp_heads.1.self_attn.q_proj.weight"
    assert name_prediction_norm(1) == "multi_token_prediction.heads.0.final_norm.weight"
