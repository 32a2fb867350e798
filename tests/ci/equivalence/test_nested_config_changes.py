from __future__ import annotations

from ci.equivalence.nested_config_changes import list_nested_changes


def test_a_change_sets_a_whole_section_and_leaves_the_rest() -> None:
    config = {"decoder": {"block": {"mixer": {"type": "attention", "causal": True, "window_size": 7}}, "n": 3}}
    changes = dict(list_nested_changes(config, 8))
    assert set(changes) == {
        "decoder.block.mixer.causal=False",
        "decoder.block.mixer.window_size=10",
        "decoder.block.mixer.window_size=14",
    }
    changed = changes["decoder.block.mixer.window_size=10"]["decoder"]
    assert changed == {"block": {"mixer": {"type": "attention", "causal": True, "window_size": 10}}, "n": 3}
    assert config["decoder"]["block"]["mixer"]["window_size"] == 7  # type: ignore[index]


def test_a_vision_encoder_is_changed_too() -> None:
    mixer = {"type": "attention", "causal": False, "cross_document_attention": False, "rotary": {"theta": 1e4}}
    tower = {"encoder": {"block": {"mixer": mixer}}, "adapter": {"activation": "relu", "intermediate_size": 3}}
    names = [name.removeprefix("vision_encoder.") for name, _ in list_nested_changes({"vision_encoder": tower}, 8)]
    block = "encoder.block.mixer"
    assert names == [
        *(f"{block}.causal=True", f"{block}.cross_document_attention=True"),
        *(f"{block}.rotary.theta=31720.0", f"{block}.rotary.theta=2193.0"),
        *(f"{block}.window_size=8", "adapter.activation='silu'", "adapter.activation='gelu_pytorch_tanh'"),
    ]


def test_a_config_without_sections_has_none() -> None:
    assert list(list_nested_changes({"hidden_size": 3, "decoder": 4}, 8)) == []
