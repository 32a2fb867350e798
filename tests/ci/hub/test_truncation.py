"""Truncation of config.json: the rules one by one, then every text model that the installed transformers knows."""

from __future__ import annotations

import functools
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import RequestError
from ci.hub.model_config import parse_config
from ci.hub.truncation import list_layer_settings, truncate_config
from ci.hub.truncation_rules import FIELD_RULES, Rule

if TYPE_CHECKING:
    from pathlib import Path


def truncated(config: dict[str, Any], layers: int = 2) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(truncate_config(parse_config(json.dumps(config), what="config.json"), layers))
    return result


BASE = {"model_type": "x", "num_hidden_layers": 4, "hidden_size": 8}

CASES: list[tuple[str, Any, Any]] = [
    ("layer_types", ["a", "b", "c", "d"], ["a", "b"]),
    ("layer_types", ["a", "b", "c", "d", "mtp"], ["a", "b"]),
    ("intermediate_size", [1, 2, 3, 4], [1, 2]),
    ("intermediate_size", 7, 7),
    ("block_configs", [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}], [{"n": 1}, {"n": 2}]),
    ("mlp_only_layers", [0, 3], [0]),
    ("mlp_only_layers", [], []),
    ("cross_attention_layers", [3], []),
    (
        "linear_attn_config",
        {"kda_layers": [1, 2, 4], "full_attn_layers": [3]},
        {"kda_layers": [1, 2], "full_attn_layers": []},
    ),
    ("per_layer_config", {"01": {"a": 1}, "3": {"a": 2}}, {"01": {"a": 1}}),
    ("first_k_dense_replace", 3, 2),
    ("first_k_dense_replace", 1, 1),
    ("max_window_layers", 4, 2),
    ("moe_layer_end_index", 3, 1),
    ("moe_layer_end_index", -1, -1),
    ("num_nextn_predict_layers", 1, 0),
    ("mtp_layer_types", ["a"], []),
    ("mtp_hybrid_override_pattern", "*", ""),
    ("mtp_layer_types", None, None),
    ("hybrid_override_pattern", "M*-M", "M*"),
    ("attention_types", [[["global", "local"], 2]], [[["global", "local"], 1]]),
    ("attention_types", [[["global"], 1], [["local"], 10**18]], [[["global", "local"], 1]]),
    ("attention_types", [[[], 10**18], [["local"], -1], [["global"], 4]], [[["global", "global"], 1]]),
    ("sliding_window_pattern", 6, 6),
    ("scale_depth", 1.4, 1.4 * 0.5**0.5),
    ("moe_layer_freq", [0, 1, 1, 1], [0, 1]),
    ("moe_layer_freq", 2, 2),
    ("num_kv_shared_layers", 0, 0),
    ("eos_token_id", [0, 1, 2, 3], [0, 1, 2, 3]),
    (
        "quantization_config",
        {"ignore": ["a", "b", "c", "d"], "num_layers": 9},
        {"ignore": ["a", "b", "c", "d"], "num_layers": 9},
    ),
    (
        "vision_config",
        {"num_hidden_layers": 4, "layer_types": [1, 2, 3, 4]},
        {"num_hidden_layers": 4, "layer_types": [1, 2, 3, 4]},
    ),
]


@pytest.mark.parametrize(("key", "value", "expected"), CASES)
def test_rules(key: str, value: Any, expected: Any) -> None:
    assert truncated({**BASE, key: value}) == {**BASE, key: expected, "num_hidden_layers": 2}


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
def test_depth_by_its_names(key: str) -> None:
    assert truncated({key: 4}) == {key: 2}


def test_the_rest_of_the_text_stays() -> None:
    text = '{"num_hidden_layers":4,\n\t"eps": 1E-5, "layer_types": ["a","b","c","d"], "x": [1.50]}\n'
    expected = '{"num_hidden_layers":2,\n\t"eps": 1E-5, "layer_types": ["a","b"], "x": [1.50]}\n'
    assert truncate_config(parse_config(text, what="c"), 2) == expected


def test_nested_text_config_and_its_twin_at_the_top() -> None:
    assert truncated({"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 9}}) == {
        "text_config": {"num_hidden_layers": 2},
        "vision_config": {"num_hidden_layers": 9},
    }
    twins = {"num_hidden_layers": 4, "text_config": {"num_hidden_layers": 4, "layer_types": ["a"] * 4}}
    assert truncated(twins) == {
        "num_hidden_layers": 2,
        "text_config": {"num_hidden_layers": 2, "layer_types": ["a", "a"]},
    }


def test_encoder_and_decoder_are_both_truncated() -> None:
    bart = {"encoder_layers": 6, "decoder_layers": 3, "num_hidden_layers": 6}
    assert truncated(bart, 4) == {"encoder_layers": 4, "decoder_layers": 3, "num_hidden_layers": 4}
    assert truncated({"num_layers": 6, "num_decoder_layers": 8}) == {"num_layers": 2, "num_decoder_layers": 2}


def test_depth_said_by_a_list_alone() -> None:
    assert truncated({"layers_block_type": ["mamba", "attention", "mamba"]}) == {
        "layers_block_type": ["mamba", "attention"]
    }


UNKNOWN: list[tuple[str, Any]] = [
    ("surprise", ["a", "b", "c", "d"]),
    ("surprise", [[1], [2], [3], [4]]),
    ("surprise_layers", [1, 2]),
    ("layer_surprises", ["a"]),
    ("surprise_indices", [0, 3]),
    ("surprise", {"0": 1, "3": 2}),
    ("num_surprise_layers", 3),
    ("surprise_every_n", 2),
    ("surprise_layer_interval", 2),
    ("surprise_pattern", "abab"),
    ("hidden_size_per_layer_input", 256),
    ("num_kv_shared_layers", 2),
    ("layer_types", ["a", "b", "c"]),
    ("mlp_only_layers", "all"),
    ("first_k_dense_replace", [1, 2]),
    ("moe_layer_start_index", [1, 2]),
]


@pytest.mark.parametrize(("key", "value"), UNKNOWN)
def test_what_looks_per_layer_and_is_not_understood_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(RequestError) as refused:
        truncated({**BASE, "nested": {key: value}})
    assert f"nested.{key}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_token_ids", [1, 2]),
        ("some_flag_layer", True),
        ("num_extra_layers", 0),
        ("block_size", 128),
        ("layer_norm_eps", 1),
        ("mystery", [0.1, 0.2]),
        ("mystery", {"a": 1}),
    ],
)
def test_what_does_not_look_per_layer_stays(key: str, value: Any) -> None:
    assert truncated({**BASE, key: value})[key] == value


@pytest.mark.parametrize(("key", "value"), [("surprise", [1, 2, 3, 4]), ("num_kv_shared_layers", 2)])
def test_the_whole_depth_needs_no_understanding(key: str, value: Any) -> None:
    assert truncated({**BASE, key: value}, 4) == {**BASE, key: value}


@pytest.mark.parametrize("layers", [0, -1, 5])
def test_impossible_counts_name_the_depth(layers: int) -> None:
    with pytest.raises(RequestError, match=f"{layers} layers asked for, the model has 4"):
        truncated(BASE, layers)


def test_first_layers_that_take_in_the_vision_tower_stay() -> None:
    config = {"text_config": {"num_hidden_layers": 4}, "vision_config": {"deepstack_visual_indexes": [8, 16, 24]}}
    with pytest.raises(RequestError, match="keep at least 3 layers"):
        truncated(config, 2)
    assert truncated(config, 3)["text_config"] == {"num_hidden_layers": 3}


@pytest.mark.parametrize(("model_type", "layers", "least"), [("olmo_hybrid", 2, 3), ("gemma4_text", 4, 5)])
def test_kinds_that_the_config_class_insists_on(model_type: str, layers: int, least: int) -> None:
    kinds = ["sliding", "sliding", "full_attention", "sliding", "full_attention"]
    config = {"model_type": model_type, "num_hidden_layers": 5, "layer_types": kinds}
    with pytest.raises(RequestError, match=f"keep {least} layers"):
        truncated(config, layers)
    assert truncated(config, least)["layer_types"] == kinds[:least]


def test_settings_of_each_layer() -> None:
    config = {
        "num_hidden_layers": 4,
        "mlp_layer_types": ["s", "f", "s", "f"],
        "max_window_layers": 1,
        "mlp_only_layers": [0],
        "kda_layers": [1],
        "first_k_dense_replace": 1,
        "sliding_window_pattern": 3,
        "per_layer_config": {"3": 9},
        "hybrid_override_pattern": "M-M*",
    }
    settings = list_layer_settings(parse_config(json.dumps(config), what="c"))
    assert [set(layer) for layer in settings] == [
        {'mlp_layer_types="s"', "in mlp_only_layers", "in kda_layers", "below first_k_dense_replace",
         "start of sliding_window_pattern", "hybrid_override_pattern=M"},
        {'mlp_layer_types="f"', "hybrid_override_pattern=-"},
        {'mlp_layer_types="s"', "end of sliding_window_pattern", "hybrid_override_pattern=M"},
        {'mlp_layer_types="f"', "start of sliding_window_pattern", "per_layer_config=9", "hybrid_override_pattern=*"},
    ]  # fmt: skip


def test_a_list_wins_over_the_period_that_it_spells_out() -> None:
    config = {"num_hidden_layers": 2, "layer_types": ["s", "f"], "sliding_window_pattern": 2}
    assert list_layer_settings(parse_config(json.dumps(config), what="c")) == [
        ('layer_types="s"',),
        ('layer_types="f"',),
    ]


@pytest.mark.parametrize(
    "said", [{"sliding_window_pattern": "LG"}, {"sliding_window_pattern": 2}, {"model_type": "gemma2"}]
)
def test_periods_are_said_by_letters_by_number_or_by_the_type(said: dict[str, Any]) -> None:
    settings = list_layer_settings(parse_config(json.dumps({"num_hidden_layers": 4, **said}), what="c"))
    assert settings[:2] == settings[2:]
    assert settings[0] != settings[1]


@pytest.mark.parametrize("used", [True, False])
def test_a_window_that_is_not_used_tells_no_layers_apart(used: bool) -> None:
    config = {"num_hidden_layers": 2, "max_window_layers": 1, "use_sliding_window": used}
    settings = list_layer_settings(parse_config(json.dumps(config), what="c"))
    assert settings == [("below max_window_layers",) if used else (), ()]


def test_a_type_whose_first_layers_are_no_model_of_it() -> None:
    config = {"model_type": "gpt_neox_japanese", "num_hidden_layers": 2}
    with pytest.raises(RequestError, match="its last layer has a bias"):
        truncated(config, 1)
    assert truncated(config, 2) == config


class TestAllOfTransformers:
    """Default configs of every model type that generates or encodes text, truncated to two layers and loaded again."""

    REFUSED = frozenset(
        (
            *("blt", "cohere_compass", "cosmos3_omni", "diffusion_gemma", "diffusion_gemma_text", "dory"),
            *("encoder-decoder", "inkling2_loop", "inkling2_loop_text"),
            *("evolla", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified_assistant"),
            *("gemma4_unified", "gemma4_unified_text", "granite_docling", "hrm_text", "inkling2", "inkling2_text"),
            *(
                "gpt_neox_japanese",
                "musicgen",
                "musicgen_melody",
                "nemo_speechlm",
                "neomme",
                "olmo_hybrid",
                "perceiver",
                "pi0",
            ),
            *("qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe", "seamless_m4t"),
            *("seamless_m4t_v2", "switch_transformers", "t5gemma", "t5gemma2", "vision-encoder-decoder"),
        )
    )
    """Refused by name at two layers: several stacks, per-layer tensors in one, layers in loops, and the like."""
    LISTED_WITH = "5.24."
    """The transformers of that list. A newer one has architectures that no rule knows yet: to refuse them is right."""
    NEWCOMERS = 20
    TASKS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "MULTIMODAL_LM", "MASKED_LM")

    @pytest.mark.filterwarnings("ignore")
    def test_truncates_and_loads_again_or_is_refused_by_name(self, tmp_path: Path) -> None:
        outcomes = {name: self.outcome(name, default, tmp_path) for name, default in self.defaults().items()}
        refused = {name for name, outcome in outcomes.items() if isinstance(outcome, RequestError)}
        broken = {name: outcome for name, outcome in outcomes.items() if outcome not in (None, *refused)}
        broken = {name: outcome for name, outcome in broken.items() if not isinstance(outcome, RequestError)}
        assert not broken, "truncated to something that does not load, or not to two layers"
        assert len(outcomes) >= 330
        assert self.REFUSED & set(outcomes) <= refused, "these truncate now: take them off the list"
        new = {name: str(outcomes[name]) for name in sorted(refused - self.REFUSED)}
        if version("transformers").startswith(self.LISTED_WITH):
            assert not new, "newly refused"
        assert len(new) <= self.NEWCOMERS, new
        assert all("no rule covers it" in reason for reason in new.values()), new

    INVISIBLE = frozenset({"sliding_attention", "full_attention", "chunked_attention"})
    """Kinds of attention that have the same tensors."""

    @pytest.mark.filterwarnings("ignore")
    def test_kinds_that_nothing_shows_are_implied(self) -> None:
        """Early files of an architecture lack lists that today's classes write; `auto` must find all kinds."""
        checked, missed = 0, {}
        for name, default in self.defaults().items():
            value = json.loads(default.to_json_string(use_diff=False))
            text = value.get("text_config", value)
            types = text.get("layer_types")
            if not isinstance(types, list) or len(set(types)) < 2 or not set(types) <= self.INVISIBLE:
                continue
            for key in [key for key in text if key == "layer_types" or FIELD_RULES.get(key) is Rule.PERIOD]:
                del text[key]
            settings = list_layer_settings(parse_config(json.dumps(value), what=name))
            wanted, actual = (max(kinds.index(kind) for kind in set(kinds)) + 1 for kinds in (types, settings))
            checked += 1
            if actual < wanted:
                missed[name] = (text.get("model_type"), wanted, actual)
        assert not missed, "in the records of architectures their periods are not, or too short"
        assert checked >= 20

    @staticmethod
    @functools.cache
    def defaults() -> dict[str, Any]:
        from transformers import CONFIG_MAPPING
        from transformers.models.auto import modeling_auto

        names = {
            name
            for task in TestAllOfTransformers.TASKS
            for name in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        }
        made = {}
        for name in sorted(names - {"gemma4_assistant"}):  # whose defaults contradict each other
            made[name] = CONFIG_MAPPING[name]()
        return made

    def outcome(self, name: str, default: Any, directory: Path) -> Exception | str | None:
        """None when all is well, the refusal, or what is wrong."""
        before = json.loads(text := default.to_json_string(use_diff=False))
        try:
            config = parse_config(text, what=name)
            result = truncate_config(config, min(2, config.depth))
        except RequestError as refusal:
            return refusal
        path = directory / f"{name}.json"
        path.write_text(result)
        try:
            after = json.loads(type(default).from_json_file(path).to_json_string(use_diff=False))
        except Exception as problem:  # whatever its class raises is the finding
            return str(problem)
        difference = self.differences(before, after, depth=config.depth)
        if difference:  # some classes do not read back what they wrote, depth or no depth
            path.write_text(text)
            before = json.loads(type(default).from_json_file(path).to_json_string(use_diff=False))
            difference = self.differences(before, after, depth=config.depth)
        return difference

    def differences(self, before: Any, after: Any, *, depth: int, key: str = "") -> str | None:
        """The first value that truncation had no business with, or that still has the old depth."""
        if isinstance(before, dict) and isinstance(after, dict):
            towers = (k for k in before if k in after and not (k.endswith("config") and "text" not in k))
            difference = (self.differences(before[k], after[k], depth=depth, key=k) for k in towers)
            return next((text for text in difference if text), None)
        if (
            FIELD_RULES.get(key, Rule.UNCHANGED) is Rule.VALUE_PER_LAYER
            and isinstance(after, list)
            and len(after) >= depth > 2
        ):
            return f"{key} still has {len(after)} values"
        about_depth = key in FIELD_RULES and FIELD_RULES[key] not in (Rule.UNCHANGED, Rule.PERIOD)
        if (
            before != after
            and not about_depth
            and not any(word in key for word in ("layer", "depth", "mtp", "num_blocks"))
        ):
            return f"{key} was {before}, became {after}"
        return None
