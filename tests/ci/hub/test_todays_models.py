"""Models of this year with the fields of their published config.json, at small widths, truncated and run.

The widths are ours. The fields come from the config classes of transformers 5.24, which read the published forms
(`__post_init__`), and from Fast-LLM's `fast_llm_external_models`, as each case says.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import NotTruncatableError
from ci.hub.layers import make_choice
from ci.hub.model_config import parse_config
from ci.hub.truncation import count_required_layers, list_layer_settings, truncate_config
from ci.hub.weights import find_model_layers
from tests.ci.hub import tiny_models
from tests.ci.hub.tiny_models import GEMMA4

if TYPE_CHECKING:
    from pathlib import Path

    from ci.hub.layers import LayerRequest


def truncated(config: dict[str, Any], layers: int | tuple[int, ...] = 2) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(truncate_config(parse_config(json.dumps(config), what="config.json"), layers))
    return result


def kept_names(config: dict[str, Any], names: list[str], layers: int = 2) -> tuple[list[str], tuple[str, ...]]:
    """Names of the tensors that stay, and what is named as dropped beside the layers."""
    prefixes = find_model_layers(names, parse_config(json.dumps(config), what="config.json"))
    positions = make_choice(layers).positions
    return [name for name in names if prefixes.place(name, positions)], prefixes.list_dropped(names)


def layer_names(prefix: str, layers: int, rest: str = "w") -> list[str]:
    return [f"{prefix}.{index}.{rest}" for index in range(layers)]


FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # fast_llm_external_models/apriel_hybrid_ssm/configuration_apriel_hybrid_ssm.py
    "apriel_hybrid_ssm": (
        {"model_type": "apriel_hybrid_ssm", "num_hidden_layers": 4, "hybrid_block_layout": ["t", "m2", "t", "m2"],
         "ssm_cfg": {"d_state": 8, "n_qk_heads": 2}},
        {"num_hidden_layers": 2, "hybrid_block_layout": ["t", "m2"]},
    ),
    # fast_llm_external_models/llava_hybrid/configuration_llava_hybrid.py
    "llava_hybrid": (
        {"model_type": "llava_hybrid", "vision_config": {"num_hidden_layers": 4},
         "text_config": {"model_type": "apriel_ssm_thinker_hybrid", "num_hidden_layers": 4,
                         "hybrid_block_layout": ["t", "m2d", "t", "t"]}},
        {"vision_config": {"num_hidden_layers": 4},
         "text_config": {"model_type": "apriel_ssm_thinker_hybrid", "num_hidden_layers": 2,
                         "hybrid_block_layout": ["t", "m2d"]}},
    ),
    # fast_llm_external_models/apriel2/configuration_apriel2.py: `get_block_name` repeats the pattern
    "apriel2_text": (
        {"model_type": "apriel2_text", "hidden_size": 8, "vocab_size": 32, "decoder": {
            "type": "pattern", "num_blocks": 6, "pattern": ["a", "b", "a"],
            "blocks": {"a": {"mixer": {"type": "attention"}}, "b": {"mixer": {"type": "gdn"}}}}},
        {"decoder": {
            "type": "pattern", "num_blocks": 2, "pattern": ["a", "b", "a"],
            "blocks": {"a": {"mixer": {"type": "attention"}}, "b": {"mixer": {"type": "gdn"}}}}},
    ),
    "apriel2 with vision": (
        {"model_type": "apriel2", "decoder": {"type": "fixed", "num_blocks": 4, "block": {"mixer": {}}},
         "vision_encoder": {"encoder": {"type": "fixed", "num_blocks": 4, "block": {}}}},
        {"decoder": {"type": "fixed", "num_blocks": 2, "block": {"mixer": {}}},
         "vision_encoder": {"encoder": {"type": "fixed", "num_blocks": 4, "block": {}}}},
    ),
    # fast_llm_external_models/diffusion_dream/configuration_dream.py
    "dream": (
        {"model_type": "Dream", "num_hidden_layers": 4, "max_window_layers": 28, "mask_token_id": 31,
         "use_sliding_window": False},
        {"num_hidden_layers": 2, "max_window_layers": 2, "mask_token_id": 31},
    ),
    # modeling_minimax_m2.py of the repository; transformers' class reads none of the three
    "minimax_m2": (
        {"model_type": "minimax_m2", "num_hidden_layers": 4, "attn_type_list": [1, 1, 1, 1], "num_mtp_modules": 3,
         "mtp_transformer_layers": 1, "use_mtp": True},
        {"num_hidden_layers": 2, "attn_type_list": [1, 1], "num_mtp_modules": 0, "mtp_transformer_layers": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_published_fields(name: str) -> None:
    config, expected = FIELDS[name]
    assert truncated(config) == {**config, **expected}


def test_a_pattern_of_blocks_tells_layers_apart_and_is_written_out_for_a_choice() -> None:
    config, _ = FIELDS["apriel2_text"]
    settings = list_layer_settings(parse_config(json.dumps(config), what="c"))
    assert settings[0] == settings[2] == settings[3] != settings[1] == settings[4]
    decoder = truncated(config, (0, 4, 5))["decoder"]
    assert (decoder["num_blocks"], decoder["pattern"]) == (3, ["a", "b", "a"])
    assert truncated(config, (1, 4))["decoder"]["pattern"] == ["b", "b"]


def test_tensors_of_apriel2() -> None:
    names = [*layer_names("model.decoder.blocks", 6), "model.embed_tokens.weight", "model.norm.weight"]
    kept, dropped = kept_names(FIELDS["apriel2_text"][0], names)
    assert (kept, dropped) == ([*names[:2], *names[6:]], ())


def test_mtp_llama_keeps_its_final_norm_and_its_heads() -> None:
    """fast_llm_external_models/mtp_llama/modeling_mtp_llama.py: `mtp_norms[0]` follows the last of `layers`."""
    config = {"model_type": "mtp_llama", "num_hidden_layers": 4, "prediction_heads": 3}
    beside = [*layer_names("model.mtp_norms", 3, "weight"), *layer_names("model.mtp_heads", 2), "lm_head.weight"]
    kept, dropped = kept_names(config, [*layer_names("model.layers", 4), *beside])
    assert (kept, dropped) == ([*layer_names("model.layers", 2), *beside], ())
    assert truncated(config) == {**config, "num_hidden_layers": 2}


def publish_minimax_m2(config: dict[str, Any]) -> None:
    depth = config["num_hidden_layers"]
    config |= {"attn_type_list": [1] * depth, "num_mtp_modules": 3, "mtp_transformer_layers": 1, "use_mtp": True}
    config["quantization_config"] = None


def publish_minimax_m3(config: dict[str, Any]) -> None:
    """tf:minimax_m3_vl/configuration_minimax_m3_vl.py reads these where no `layer_types` are given."""
    text = config["text_config"]
    depth = text["num_hidden_layers"]
    del text["layer_types"], text["mlp_layer_types"]
    text["moe_layer_freq"] = [0] * 3 + [1] * (depth - 3)
    text["sparse_attention_config"] = {"sparse_attention_freq": text["moe_layer_freq"]}
    text |= {"attn_type_list": [1] * depth, "num_mtp_modules": 1, "mtp_transformer_layers": 1}


def publish_deepseek_v4(config: dict[str, Any]) -> None:
    """tf:deepseek_v4/configuration_deepseek_v4.py: `compress_ratios` and `num_hash_layers` become lists of kinds."""
    depth = config["num_hidden_layers"]
    names = {"heavily_compressed_attention": 128, "compressed_sparse_attention": 4, "sliding_attention": 0}
    config["compress_ratios"] = [*(names[kind] for kind in config.pop("layer_types")), 0]
    assert config.pop("mlp_layer_types")[:4] == ["hash_moe"] * 3 + ["moe"]
    config |= {"num_hash_layers": 3, "num_nextn_predict_layers": 1}
    assert len(config["compress_ratios"]) == depth + 1


def publish_mimo(config: dict[str, Any]) -> None:
    """The lists of the published config.json beside those that tf:mimo_v2_flash derives."""
    depth = config["num_hidden_layers"]
    config["hybrid_layer_pattern"] = [int(kind != "full_attention") for kind in config["layer_types"]]
    config["moe_layer_freq"] = [0] + [1] * (depth - 1)


def keep(config: dict[str, Any]) -> None:
    """Publish what transformers writes."""


MOE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24}
RUNS: dict[str, tuple[str, Any, dict[str, Any] | None, LayerRequest, int]] = {
    "minimax_m2": ("minimax_m2", publish_minimax_m2, None, 2, 2),
    "minimax_m2 auto": ("minimax_m2", publish_minimax_m2, None, "auto", 1),
    "minimax_m3_vl": ("minimax_m3_vl", publish_minimax_m3, None, 2, 2),
    "minimax_m3_vl auto": ("minimax_m3_vl", publish_minimax_m3, None, "auto", 4),
    "deepseek_v4": ("deepseek_v4", publish_deepseek_v4, None, 2, 2),
    "deepseek_v4 auto": ("deepseek_v4", publish_deepseek_v4, None, "auto", 5),
    "mimo_v2_flash": ("mimo_v2_flash", publish_mimo, None, 2, 2),
    "mimo_v2_flash auto": ("mimo_v2_flash", publish_mimo, None, "auto", 6),
    "gemma4 dense (31B)": ("gemma4_text", keep, GEMMA4, "auto", 6),
    "gemma4 MoE (26B)": ("gemma4_text", keep, {**GEMMA4, **MOE}, "auto", 6),
    "gemma4 two chosen layers": ("gemma4_text", keep, GEMMA4, (0, 5), 2),
    "qwen3_vl auto": ("qwen3_vl", keep, None, "auto", 3),
    "zamba2": ("zamba2", keep, None, 4, 4),
    "zamba2 auto": ("zamba2", keep, None, "auto", 5),
}
"""Model type, what its config.json is published as, arguments of its config class, layers asked for and kept."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNS)
def test_runs_like_the_first_layers_of_the_whole(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import CONFIG_MAPPING

    model_type, publish, arguments, layers, count = RUNS[name]
    config = CONFIG_MAPPING[model_type](**arguments, attn_implementation="eager") if arguments else None
    whole = tiny_models.make_model(model_type, tmp_path / "whole", config)
    path = tmp_path / "whole" / "config.json"
    published = json.loads(path.read_text())
    publish(published)
    path.write_text(json.dumps(published))
    selection = tiny_models.truncate(tmp_path / "whole", tmp_path / "cut", layers)
    assert selection.choice.layers == count
    cut, problems = tiny_models.load(model_type, tmp_path / "cut")
    assert not problems
    if selection.choice.picked:
        return
    depth = parse_config(path.read_text(), what=name).depth
    ids = torch.arange(1, 33).reshape(2, 16) * 3 % 100
    expected = tiny_models.run_layers(whole, depth, count - 1, ids)
    actual = tiny_models.run_layers(cut, count, count - 1, ids)
    lists = [key for key in expected if key in actual and key != "logits"]
    assert lists
    for key in lists:
        assert expected[key].abs().max() > 0
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-5, atol=1e-5)
    assert torch.isfinite(actual["logits"]).all()


def test_gemma4_at_two_layers_says_how_many_are_the_fewest() -> None:
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 5
    config = {"model_type": "gemma4", "text_config": {
        "model_type": "gemma4_text", "num_hidden_layers": 30, "layer_types": kinds}}  # fmt: skip
    with pytest.raises(
        NotTruncatableError, match="6 are the fewest first layers; keep 6 layers, or choose layers that"
    ):
        truncated(config, 2)
    assert count_required_layers(parse_config(json.dumps(config), what="c"), 2) == 6
    assert truncated(config, (0, 5))["text_config"]["layer_types"] == ["sliding_attention", "full_attention"]


def test_a_config_of_three_megabytes_is_read() -> None:
    """MiniMax-M3 lists the modules that are not quantized."""
    names = [f"language_model.model.layers.{n % 60}.block_sparse_moe.experts.{n % 128}.w1" for n in range(50_000)]
    config = {"model_type": "minimax_m3_vl", "text_config": {"num_hidden_layers": 60, "attn_type_list": [1] * 60},
              "quantization_config": {"ignored_layers": names}}  # fmt: skip
    assert len(json.dumps(config)) > 3_000_000
    assert truncated(config)["text_config"] == {"num_hidden_layers": 2, "attn_type_list": [1, 1]}
