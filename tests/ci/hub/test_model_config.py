"""The depth of a model and its fields about layers, read from config.json."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci.errors import InfrastructureError, NotTruncatableError, RequestError
from ci.hub.config_numbers import MAX_LAYERS
from ci.hub.model_config import LayerStack, parse_config
from ci.hub.truncation_rules import Rule


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"hidden_size": 1}, "no field says how many layers"),
        ({"num_hidden_layers": "4"}, "expected a number of layers"),
        ({"num_hidden_layers": 0}, "expected a number of layers"),
        (
            {"num_hidden_layers": 10**18},
            f"num_hidden_layers is {10**18}, hub-tests accepts at most {MAX_LAYERS} layers",
        ),
        ({"text_config": {"n_layer": MAX_LAYERS + 1}}, "hub-tests accepts at most"),
        ({"layers_block_type": ["m"] * (MAX_LAYERS + 1)}, "the length of layers_block_type is 4097, hub-tests accepts"),
        ({"num_layers": 2, "num_decoder_layers": 10**18}, "hub-tests accepts at most"),
        ({"num_hidden_layers": 4, "n_layer": 5}, "contradictory depths"),
        ({"a": {"num_layers": 2}, "b": {"num_layers": 3}}, "several stacks of layers"),
    ],
)
def test_depths_that_cannot_be_told(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        parse_config(json.dumps(config), what="config.json")
    assert "\n" not in str(refused.value)


def test_the_deepest_model_that_is_accepted() -> None:
    assert parse_config(json.dumps({"num_hidden_layers": MAX_LAYERS}), what="c").depth == MAX_LAYERS


def test_fields_carry_their_path_rule_and_depth() -> None:
    text = '{"text_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "a"], "nested": {"odd_layers": [1]}}}'
    config = parse_config(text, what="c")
    assert config.stacks == (LayerStack("text", 3, (("text_config", "num_hidden_layers"),)),)
    assert [(field.path[1:], field.rule, field.depth) for field in config.fields] == [
        (("layer_types",), Rule.VALUE_PER_LAYER, 3),
        (("nested", "odd_layers"), Rule.UNKNOWN, 3),
    ]


def test_not_json_is_upstreams_fault() -> None:
    with pytest.raises(InfrastructureError, match="not valid JSON"):
        parse_config("{", what="c")


def test_layers_is_a_depth_only_beside_the_sizes_of_kosmos() -> None:
    kosmos = {"text_config": {"layers": 24, "ffn_dim": 8192}, "vision_config": {"num_hidden_layers": 18}}
    (stack,) = parse_config(json.dumps(kosmos), what="x").stacks
    assert (stack.depth, stack.fields) == (24, (("text_config", "layers"),))
    with pytest.raises(NotTruncatableError, match="no field says how many layers"):
        parse_config('{"layers": 24}', what="x")
