"""Each key of a production model's config.json: its generated model has it, or it is left out for a reason."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.format_models import MODELS
from tests.standin.production_keys import PRODUCTION, SAME, flatten
from tests.standin.recipes import RECIPES, Recipe

GENERATED = {model.name: model for model in MODELS}


def read_config(name: str) -> dict[str, Any]:
    model = GENERATED[name]
    recipe = RECIPES[model.recipe] if isinstance(model.recipe, str) and model.recipe else model.recipe
    return recipe.config if isinstance(recipe, Recipe) else dict(model.config)


def test_each_generated_model_has_a_production_config() -> None:
    assert {*PRODUCTION, *SAME} == {*GENERATED}
    assert all(GENERATED[name].config == GENERATED[other].config for name, other in SAME.items())


@pytest.mark.parametrize("name", PRODUCTION)
def test_each_key_is_generated_or_left_out_with_a_reason(name: str) -> None:
    production, generated = PRODUCTION[name], flatten(read_config(name))
    assert sorted(production.keys - generated - production.left_out.keys()) == []
    assert sorted(key for key in production.left_out if key in generated) == [], "generated, so not left out"
    assert {*production.left_out} <= production.keys
    assert all(len(reason.split()) >= 3 for reason in production.left_out.values())
    assert production.source


def test_a_new_key_of_a_production_config_would_be_seen() -> None:
    generated = flatten(read_config("llama"))
    assert flatten({"rope_scaling": {"factor": 8.0, "invented": 1}}) - generated == {"rope_scaling.invented"}
    assert flatten({"auto_map": {"AutoConfig": "a.B"}, "empty": {}}) == {"auto_map", "empty"}


@pytest.mark.parametrize("name", PRODUCTION)
def test_sizes_are_odd_and_unequal(name: str) -> None:
    """Heads, groups, sizes and layers are no two alike, so that one taken for another has another shape."""
    config = read_config(name)
    text = config.get("text_config") or config
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    sizes = [text[key] for key in (*keys, "num_key_value_heads") if key in text]
    assert len({*sizes}) == len(sizes)
    assert text["vocab_size"] % 2 == 1
