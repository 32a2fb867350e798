"""Sections of a config.json: their keys are set and their sizes shrunk, the rest stays."""

from __future__ import annotations

from ci.equivalence.composite_config import (
    fill_sizes,
    find_sections,
    is_composite,
    lower_image_token,
    name_key,
    set_keys,
    shrink_tower,
    take_text,
)

CONFIG = {"model_type": "llava", "text_config": {"rope_theta": 1e6}, "vision_config": None, "image_token_index": 10}


def test_a_key_of_a_section_is_set_there_and_only_there() -> None:
    keys = {"text_config.rms_norm_eps": 0.1, name_key("vision_config", "hidden_act"): "relu", "a.b": 1}
    edited = set_keys(CONFIG, keys)
    assert edited == {
        **CONFIG,
        "text_config": {"rope_theta": 1e6, "rms_norm_eps": 0.1},
        "vision_config": {"hidden_act": "relu"},
        "a.b": 1,
    }
    assert CONFIG["text_config"] == {"rope_theta": 1e6}, "the config itself stays"


def test_a_section_that_is_none_is_no_section() -> None:
    assert find_sections(CONFIG) == ("text_config",)
    assert is_composite(CONFIG)
    assert take_text(CONFIG) == {"rope_theta": 1e6}
    assert not is_composite({"hidden_size": 3})
    assert take_text({"hidden_size": 3}) == {"hidden_size": 3}


def test_sizes_that_are_left_out_are_those_of_transformers() -> None:
    resolved = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": None, "rope_theta": 5.0}
    assert fill_sizes({"hidden_size": 32}, resolved) == {"hidden_size": 32, "num_attention_heads": 4}


def test_an_image_token_beyond_the_vocabulary_is_lowered() -> None:
    assert lower_image_token(CONFIG, 512) == {}
    assert lower_image_token({"image_token_index": 32000, "image_token_id": 3}, 512) == {"image_token_index": 510}


def test_a_thin_tower_keeps_heads_sizes_and_patches() -> None:
    tower = {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 16, "rope_theta": 1e4}
    thin = shrink_tower(tower, 12, 2, 192)
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 12, "intermediate_size": 192}
    assert thin == {**tower, **sizes}
    assert shrink_tower({**tower, "head_dim": 12}, 1, 2, 192)["hidden_size"] == 24
    assert shrink_tower({**tower, "num_key_value_heads": 16}, 1, 2, 192)["num_key_value_heads"] == 2
    assert shrink_tower({"depth": 3}, 12, 2, 192) == {"depth": 3}, "a tower of another form stays as it is"
