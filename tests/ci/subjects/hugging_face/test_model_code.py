from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.model_code import compare_with_stored, load_model_code, overrides_loading
from tests.ci.subjects.own_code import AUTO_MAP, save_code, save_config

if TYPE_CHECKING:
    from pathlib import Path


def test_classes_come_from_the_directory_and_missing_kernels_are_named(tmp_path: Path) -> None:
    code, config = save_code(tmp_path / "code"), save_config(tmp_path / "model")
    loaded, again = load_model_code(config, code), load_model_code(config, code)
    assert (loaded.config_class.__name__, loaded.model_class.__name__) == ("TinyConfig", "TinyForCausalLM")
    assert again.model_class is loaded.model_class
    assert loaded.stand_ins == again.stand_ins == ("chunk_gated_delta_rule",)
    (code / "modeling_tiny.py").write_text("class TinyForCausalLM: pass\n")
    assert load_model_code(config, code).model_class is not loaded.model_class, "other code is another package"


@pytest.mark.parametrize(
    "auto_map",
    [
        {},
        {**AUTO_MAP, "AutoConfig": "someone/else--configuration_tiny.TinyConfig"},
        {"AutoConfig": AUTO_MAP["AutoConfig"]},
    ],
)
def test_code_of_another_repository_is_refused(auto_map: dict[str, Any], tmp_path: Path) -> None:
    config = save_config(tmp_path / "model", auto_map=auto_map)
    with pytest.raises(UnsupportedError, match="of this repository"):
        load_model_code(config, save_code(tmp_path / "code"))


def test_code_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    code = save_code(tmp_path / "code")
    (code / "configuration_tiny.py").write_text("import no_such_package_here\n")
    with pytest.raises(SubjectError, match=r"configuration_tiny\.py cannot be imported: .*no_such_package_here"):
        load_model_code(save_config(tmp_path / "model"), code)


def test_what_a_loader_of_its_own_left_out_is_found(tmp_path: Path) -> None:
    side = HuggingFace(code=save_code(tmp_path / "code"))
    side.write_model(str(save_config(tmp_path / "config")), str(tmp_path / "model"), "float32", 0)
    code = side.loader.load_code(str(tmp_path / "model"))
    assert code is not None
    assert not overrides_loading(code.model_class)
    model = code.model_class.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert not any(compare_with_stored(model, tmp_path / "model").values())
    stored = load_file(tmp_path / "model" / "model.safetensors")
    stored["lm_head.weight"] += 1
    stored["extra"] = stored.pop("model.norms.0.weight")
    save_file(stored, tmp_path / "model" / "model.safetensors")
    assert compare_with_stored(model, tmp_path / "model") == {
        "missing_keys": ["model.norms.0.weight"],
        "unexpected_keys": ["extra"],
        "different_keys": ["lm_head.weight"],
    }


def test_a_class_with_its_own_loader_is_seen() -> None:
    class Own:
        @classmethod
        def from_pretrained(cls) -> None: ...

    assert overrides_loading(Own)
