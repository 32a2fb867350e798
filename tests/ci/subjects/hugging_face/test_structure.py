from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoModelForCausalLM

from ci.subjects.hugging_face import HuggingFace, structure
from ci.tensor_names import DELTA_RULE_OPERATIONS, QUERY, STEP
from tests.ci.subjects.own_code import save_code, save_config
from tests.ci.subjects.tiny import CONFIGS
from tests.standin.own_models import HYBRID, open_side, write_own_model

if TYPE_CHECKING:
    from pathlib import Path


def build(tmp_path: Path, *pattern: str, **changes: Any) -> Any:
    side = HuggingFace(code=save_code(tmp_path / "code"))
    return side.loader.build(str(save_config(tmp_path / "model", pattern, **changes)))


def test_blocks_of_further_heads_are_not_the_decoders(tmp_path: Path) -> None:
    model = build(tmp_path, "attention", heads=4)
    assert structure.find_decoder_blocks(model) is model.model.layers
    assert structure.find_prediction_blocks(model) == list(model.model.mtp_heads)
    assert not structure.find_prediction_blocks(AutoModelForCausalLM.from_config(CONFIGS["llama"]))


def test_the_main_mixer_of_several_is_the_blocks(tmp_path: Path) -> None:
    model = build(tmp_path, "main-gdn", "main-attention", "attention")
    first, second, third = model.model.layers
    assert structure.find_mixer(first) is first.mixer.mixers["gdn"]
    assert structure.find_mixer_name(second) == "attention"
    assert structure.find_mixer_name(third) == ""
    kinds = [structure.classify_mixer(structure.find_mixer(block)) for block in model.model.layers]
    assert kinds == ["delta_rule", "attention", "attention"]
    assert structure.classify_mixer(None) == structure.classify_mixer(first.mlp) == "other"


@pytest.mark.parametrize(("kind", "recurrent"), [("gdn", True), ("attention", False)])
def test_a_recurrence_has_operations_of_its_own(kind: str, recurrent: bool, tmp_path: Path) -> None:
    operations = structure.list_operations(build(tmp_path, kind).model.layers[0])
    assert QUERY in operations
    assert set(DELTA_RULE_OPERATIONS).issubset(operations) is recurrent


def test_a_scan_has_a_step(tmp_path: Path) -> None:
    model = open_side().loader.build(str(write_own_model(HYBRID, tmp_path / "hybrid")))
    attention, first, second = structure.find_decoder_blocks(model)
    assert structure.classify_mixer(structure.find_mixer(first)) == "scan"
    assert [STEP in structure.list_operations(block) for block in (attention, first, second)] == [False, True, True]
