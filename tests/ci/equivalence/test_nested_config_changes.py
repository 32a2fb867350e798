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


def test_a_config_without_sections_has_none() -> None:
    assert list(list_nested_changes({"hidden_size": 3, "decoder": 4}, 8)) == []
