from __future__ import annotations

from typing import Any

import pytest

from ci.equivalence import inputs, nested_config
from ci.equivalence.config_changes import list_changes, list_untried_keys
from ci.equivalence.converted_config import find_wrong_keys
from ci.equivalence.nested_config_changes import list_nested_changes
from ci.equivalence.round_trip import compare_configs
from ci.equivalence.synthetic_model import shrink_config

ATTENTION = {"type": "attention", "heads": 40, "head_groups": 8, "head_size": 128, "rotary": {"theta": 1e8}}
GDN = {"type": "gdn", "value_heads": 40, "key_heads": 8, "key_head_dim": 128, "value_head_dim": 96}
KDA = {"type": "kda", "heads": 40, "head_dim": 128}
MIXERS = {"attention": ATTENTION, "sliding_window": {**ATTENTION, "window_size": 4096}, "gdn": GDN, "kda": KDA}
STOCHASTIC = {"type": "stochastic", "main_mixer_name": "attention", "mixers": MIXERS}
REST = {"mlp": {"intermediate_size": 14336, "activation": "silu"}, "normalization": {"epsilon": 1e-5}}


def make(**decoder: Any) -> dict[str, Any]:
    decoder = decoder or {"type": "fixed", "num_blocks": 48, "block": {"mixer": STOCHASTIC, **REST}}
    rest = {"embeddings": {"max_position_embeddings": 65536}, "head": {"normalization": {"epsilon": 1e-5}}}
    return {"model_type": "apriel2_text", "hidden_size": 5120, "vocab_size": 131072, "decoder": decoder, **rest}


PATTERN = make(
    type="pattern",
    num_blocks=7,
    pattern=["a", "g", "a"],
    blocks={"a": {"mixer": ATTENTION, **REST}, "g": {"mixer": GDN, **REST}},
)


def test_inputs_reach_the_window_of_any_mixer() -> None:
    needs = inputs.read_requirements(make())
    assert (needs.heads, needs.window, needs.positions, needs.vocabulary) == (40, 4096, 65536, 131072)
    assert inputs.read_requirements(PATTERN).window is None


def test_only_names_that_every_block_has_are_mixers() -> None:
    assert nested_config.list_mixer_names(make()) == tuple(MIXERS)
    assert nested_config.list_mixer_names(PATTERN) == ()
    assert nested_config.list_mixer_names({"hidden_size": 3}) == ()


def test_attention_is_found_in_any_mixer() -> None:
    alone = make(type="fixed", num_blocks=2, block={"mixer": GDN, **REST})
    assert nested_config.has_attention(make())
    assert nested_config.has_attention(PATTERN)
    assert not nested_config.has_attention(alone)


def test_another_main_mixer_changes_every_block_and_nothing_else() -> None:
    before = make()
    after = nested_config.choose_mixer(before, "kda")
    assert after["decoder"]["block"]["mixer"] == {**STOCHASTIC, "main_mixer_name": "kda"}
    assert before == make()
    assert [change.key for change in compare_configs(before, after)] == ["decoder.block.mixer.main_mixer_name"]


@pytest.mark.parametrize("config", [make(), PATTERN])
def test_a_thin_model_keeps_kinds_windows_and_head_sizes(config: dict[str, Any]) -> None:
    thin = shrink_config(config, 12)
    assert thin["decoder"]["num_blocks"] == 12
    assert thin["hidden_size"] < 200
    kinds = [[mixer["type"] for mixer in nested_config.list_mixers(each)] for each in (config, thin)]
    assert kinds[0] == kinds[1]
    for before, after in zip(nested_config.list_mixers(config), nested_config.list_mixers(thin), strict=True):
        sizes = {key: value for key, value in before.items() if key.endswith(("size", "dim"))}
        assert sizes.items() <= after.items()
        assert after.get("heads", after.get("value_heads", 0)) <= 4
    assert nested_config.count_block_kinds(PATTERN) == 3


def test_a_vision_encoder_becomes_thin_with_as_many_blocks() -> None:
    mixer = {"type": "attention", "heads": 16, "head_groups": 16, "head_size": 64, "rotary": {"max_image_size": 1024}}
    encoder = {"type": "fixed", "num_blocks": 24, "block": {"mixer": mixer, **REST}}
    adapter = {"intermediate_size": 5120, "activation": "gelu"}
    tower = {"hidden_size": 1024, "num_hidden_layers": 24, "encoder": encoder, "adapter": adapter}
    thin = shrink_config({**make(), "vision_encoder": tower, "image_token_index": 131071}, 12)
    after = thin["vision_encoder"]
    assert (after["encoder"]["num_blocks"], after["num_hidden_layers"], after["hidden_size"]) == (12, 12, 128)
    assert after["encoder"]["block"]["mixer"] == {**mixer, "heads": 2, "head_groups": 2}
    assert after["adapter"] == {"intermediate_size": 192, "activation": "gelu"}
    assert thin["image_token_index"] == 510
    assert tower["encoder"] == encoder


def test_every_leaf_that_shapes_do_not_decide_is_changed() -> None:
    names = {name.partition("=")[0] for name, _ in list_nested_changes(make(), 8)}
    mixers = "decoder.block.mixer.mixers"
    assert names == {
        "decoder.block.mixer.main_mixer_name",
        "decoder.block.mlp.activation",
        "decoder.block.normalization.epsilon",
        "head.normalization.epsilon",
        *(f"{mixers}.{name}.{key}" for name in ("attention", "sliding_window") for key in ("causal", "window_size")),
        *(f"{mixers}.{name}.rotary.theta" for name in ("attention", "sliding_window")),
    }
    changes = {change.name: change.keys for change in list_changes(make(), make())}
    assert list_untried_keys(make()) == ("embeddings",), "a section of which a leaf is changed is tried"
    main = changes["decoder.block.mixer.main_mixer_name='gdn'"]["decoder"]["block"]["mixer"]
    assert main == {**STOCHASTIC, "main_mixer_name": "gdn"}


def test_what_only_training_reads_is_no_semantic_change() -> None:
    after = make()
    after["decoder"]["block"]["mixer"] = {**STOCHASTIC, "sampling_strategy": "uniform"}
    after["head"] = {"normalization": {"epsilon": 1e-6}}
    changes = {change.key: change.kind for change in compare_configs(make(), after)}
    assert changes == {
        "decoder.block.mixer.sampling_strategy": "metadata",
        "head.normalization.epsilon": "semantic",
    }


def test_nothing_is_said_about_keys_that_a_nested_config_does_not_have() -> None:
    assert find_wrong_keys(make(), None) == ()  # type: ignore[arg-type]
