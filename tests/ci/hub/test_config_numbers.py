"""Numbers of a config.json that anybody may have written: one line, and no memory."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import pytest

from ci.errors import HubTestsError, RequestError
from ci.hub.config_numbers import MAX_SIZE, check_sizes, read_count, read_optional_count, shorten_value
from ci.hub.model_config import parse_config
from ci.hub.truncation import list_layer_settings, truncate_config


@pytest.mark.parametrize("value", [None, 0, -1, 1.0, 1.5, True, "4", math.nan, math.inf, [4], {}, 10**18, 10**4000])
def test_what_is_no_count(value: Any) -> None:
    with pytest.raises(RequestError, match="c: n is ") as refused:
        read_count({"n": value}, "n", what="c")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_counts() -> None:
    assert read_count({"n": MAX_SIZE}, "n", what="c") == MAX_SIZE
    assert read_optional_count({"n": None}, "n", what="c") is None
    assert read_optional_count({"n": 0}, "n", what="c") == 0
    assert shorten_value([0] * 10**6) == "a list of 1000000 values"


@pytest.mark.parametrize(
    "config",
    [
        *({name: 10**18} for name in ("hidden_size", "vocab_size", "num_experts", "head_dim", "n_embd", "ffn_dim")),
        {"text_config": {"intermediate_size": 2**27}},
        {"intermediate_size": [1, 2, 10**18]},
        {"a": [{"hidden_size": -5}]},
        {"hidden_size": 1e300},
        {"num_attention_heads": math.inf},
    ],
)
def test_no_number_of_this_size_is_one_of_a_tensor(config: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        check_sizes(config, what="c")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "config", [{"max_position_embeddings": 10**9}, {"hidden_size": None}, {"model_max_length": 1e30}, {"x": [[[]]]}]
)
def test_other_numbers_may_be_large(config: dict[str, Any]) -> None:
    check_sizes(config, what="c")


BASE = '"model_type": "llama", "num_hidden_layers": 4'
ZEROS, OBJECTS = ",".join(["0"] * 10**5), ",".join(["{}"] * 300_000)
HOSTILE = {
    "depth of 10^18": '{"num_hidden_layers": 1000000000000000000}',
    "depth of 4000 digits": f'{{"num_hidden_layers": {"9" * 4000}}}',
    "negative depth": '{"num_hidden_layers": -4}',
    "depth as text": '{"num_hidden_layers": "4"}',
    "depth as bool": '{"num_hidden_layers": true}',
    "depth NaN": '{"num_hidden_layers": NaN}',
    "depth 1e400": '{"num_hidden_layers": 1e400}',
    "MTP layers": f'{{{BASE}, "num_nextn_predict_layers": 1000000000000000000}}',
    "long list of layers": f'{{{BASE}, "layer_types": [{ZEROS}]}}',
    "long list of indices": f'{{{BASE}, "mlp_only_layers": [{ZEROS}]}}',
    "deep lists": f'{{{BASE}, "x": {"[" * 10**5}}}',
    "closed deep lists": f'{{{BASE}, "x": {"[" * 500}{"]" * 500}}}',
    "many objects": f'{{{BASE}, "x": [{OBJECTS}]}}',
}


def use(text: str) -> None:
    config = parse_config(text, what="c")
    list_layer_settings(config)
    truncate_config(config, 2)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_costs_one_line_and_no_memory(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(HubTestsError) as refused:
        use(HOSTILE[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert peak < 50_000_000


def test_a_long_list_that_is_about_nothing_stays() -> None:
    text = json.dumps({"num_hidden_layers": 4, "numbers": [0] * 100_000})
    assert truncate_config(parse_config(text, what="c"), 2) == text.replace('layers": 4', 'layers": 2')
