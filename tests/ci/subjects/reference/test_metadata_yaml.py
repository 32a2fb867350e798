"""Fast-LLM's configuration tree: what is written reads back, what would change the forward is refused by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import SubjectError, UnsupportedError
from ci.subjects.reference.config import DefaultRope, Llama3Rope, YarnRope
from ci.subjects.reference.metadata_yaml import read_base_model
from ci.subjects.reference.metadata_yaml_write import write_base_model
from tests.ci.subjects.reference.test_config_json import read

if TYPE_CHECKING:
    from ci.subjects.reference.config import Rope

BLOCK = ("decoder", "block")
MIXER, MLP = (*BLOCK, "mixer"), (*BLOCK, "mlp")


def changed(tree: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A copy of a tree with one value set."""
    key, *rest = path
    return {**tree, key: changed(tree.get(key, {}), tuple(rest), value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*MIXER, "query_norm"), {"type": "rms_norm"}),
        ((*MIXER, "type"), "hyena"),
        ((*MIXER, "rotary", "type"), "none"),
        ((*MIXER, "rotary", "partial_rotary_factor"), 0.5),
        ((*MIXER, "key_layer", "bias", "enabled"), True),
        ((*MLP, "gated"), False),
        ((*MLP, "activation"), "squared_relu"),
        ((*MLP, "type"), "mamba"),
        ((*MLP, "pre_norm"), {"type": "rms_norm"}),
        ((*BLOCK, "normalization", "type"), "layer_norm"),
        ((*BLOCK, "normalization", "zero_centered"), True),
        ((*BLOCK, "post_mlp_normalization"), {"type": "layer_norm"}),
        ((*BLOCK, "post_mixer_normalization"), {"type": "rms_norm"}),
        ((*MIXER, "key_norm"), {"type": "fixed_rms_norm"}),
        (("decoder", "type"), "spiral"),
        (("embeddings", "position_embeddings", "enabled"), True),
        (("embeddings", "full_precision_residual"), True),
        (("head", "logits_scale_factor"), 0.5),
        (("peft", "type"), "lora"),
    ],
)
def test_what_would_change_the_forward_is_refused_by_name(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(UnsupportedError, match=path[-1] if path[-1] != "enabled" else "enabled|bias"):
        read_base_model(changed(write_base_model(read("llama")), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*MIXER, "softmax_scale_power"), 1.0),
        ((*MIXER, "shared_key_value"), True),
        ((*BLOCK, "output_scale", "enabled"), True),
        (("embeddings", "embedding_scale"), 2.0),
        (("head", "final_logit_softcap"), 30.0),
        (("head", "prediction_heads"), 2),
        ((*MIXER, "causal"), False),
    ],
)
def test_what_changes_the_forward_changes_the_architecture(path: tuple[str, ...], value: object) -> None:
    tree = write_base_model(read("llama"))
    architecture = read_base_model(changed(tree, path, value))
    assert architecture != read("llama")
    assert read_base_model(write_base_model(architecture)) == architecture


@pytest.mark.parametrize(
    ("block", "path", "value", "named"),
    [
        ("block_0", ("pre_mlp_normalization", "type"), "rms_norm", "pre_mlp_normalization"),
        ("block_0", ("mlp", "dense", "pre_norm"), None, "pre_norm"),
        ("block_1", ("mlp", "routed", "router_input_scale"), 1.0, "router_input_scale"),
        ("block_1", ("mlp", "routed", "router_scale", "enabled"), False, "router_scale"),
        ("block_1", ("mlp", "routed", "router_per_expert_scale"), None, "router_per_expert_scale"),
        ("block_1", ("mlp", "routed", "router_normalization"), None, "router_normalization"),
        ("block_0", ("post_mlp_normalization", "epsilon"), 0.5, "post_mixer_normalization"),
        ("block_0", ("mixer", "value_norm"), None, "query_norm"),
        ("block_1", ("mixer", "rotary", "type"), "spiral", "type"),
    ],
)
def test_a_part_of_two_branches_that_is_of_another_kind_is_refused(
    block: str, path: tuple[str, ...], value: object, named: str
) -> None:
    tree = write_base_model(read("gemma4-experts"))
    with pytest.raises(UnsupportedError, match=named):
        read_base_model(changed(tree, ("decoder", "blocks", block, *path), value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*MLP, "shared_experts"), 1),
        ((*MLP, "routing"), "sinkhorn"),
        ((*MLP, "router_normalization"), {"type": "rms_norm"}),
        ((*MLP, "router_input_scale"), 0.1),
        ((*MLP, "router_scale", "enabled"), True),
        ((*MLP, "experts_per_token"), 99),
        ((*MLP, "router", "bias"), {}),
    ],
)
def test_routing_of_another_kind_is_refused_by_name(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(UnsupportedError, match=path[-1]):
        read_base_model(changed(write_base_model(read("mixtral")), path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*MIXER, "implementation"), "flash"),
        ((*MIXER, "dropout"), 0.1),
        ((*MLP, "recompute_level"), "full"),
        ((*MLP, "layer_1"), {"weight": {"lr_scale": 2.0}, "lr_scale": 0.0}),
        ((*BLOCK, "lr_scale"), 0.5),
        (("head", "cross_entropy_splits"), 4),
        (("embeddings", "word_embeddings"), {"initialization": {"type": "normal"}}),
    ],
)
def test_what_only_acts_in_training_is_inert(path: tuple[str, ...], value: object) -> None:
    tree = write_base_model(read("llama"))
    assert read_base_model(changed(tree, path, value)) == read_base_model(tree)


def test_biases_by_layer_and_by_default_are_the_same() -> None:
    architecture = read("llama-biases")
    tree = changed(write_base_model(architecture), (*MIXER, "add_linear_biases"), False)
    for layer in ("query_layer", "key_layer", "value_layer", "dense_layer"):
        tree = changed(tree, (*MIXER, layer, "bias", "enabled"), True)
    assert read_base_model(tree) == architecture


@pytest.mark.parametrize(
    ("rotary", "expected"),
    [
        ({"type": "default"}, DefaultRope(1e4)),
        ({"type": "llama3", "theta": 5e5}, Llama3Rope(5e5, 8.0, 1.0, 4.0, 8192)),
        ({"type": "yarn", "attention_factor": 1.5}, YarnRope(1e4, 8.0, 1.5, 32.0, 1.0, 8192)),
        ({"type": "yarn", "scale_factor": 1.0, "attention_factor": None}, YarnRope(1e4, 1.0, 1.0, 32.0, 1.0, 8192)),
        ({"type": "yarn"}, YarnRope(1e4, 8.0, 0.1 * math.log(8) + 1, 32.0, 1.0, 8192)),
    ],
)
def test_a_key_of_rope_that_is_missing_has_the_default_of_fast_llm(rotary: dict[str, Any], expected: Rope) -> None:
    tree = changed(write_base_model(read("llama")), (*MIXER, "rotary"), rotary)
    assert read_base_model(tree).blocks[0].attention.rope == expected


def test_a_scale_of_yarn_that_is_not_positive_is_refused() -> None:
    rotary = {"type": "yarn", "scale_factor": 0.0}
    with pytest.raises(UnsupportedError, match="scale_factor"):
        read_base_model(changed(write_base_model(read("llama")), (*MIXER, "rotary"), rotary))


@pytest.mark.parametrize("tree", [None, [], "gpt", {"hidden_size": "96"}])
def test_a_malformed_tree_is_one_line(tree: object) -> None:
    with pytest.raises((SubjectError, UnsupportedError)) as caught:
        read_base_model(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("embeddings", "patch_width"), 5, "patch_embeddings"),
        (("embeddings", "patch_embeddings"), {"bias": {"enabled": True}}, "patch_embeddings"),
        (("embeddings", "normalization", "type"), "layer_norm", "type"),
        (("adapter", "gated"), True, "gated"),
        (("adapter", "intermediate_size"), 7, "intermediate_size"),
        (("adapter", "activation"), "tanh", "activation"),
        (("adapter", "layer_1"), {"bias": {"enabled": False}}, "layer_1"),
        (("encoder", "type"), "spiral", "type"),
    ],
)
def test_another_vision_tower_is_refused_by_name(path: tuple[str, ...], value: object, named: str) -> None:
    tree = write_base_model(read("llava"))
    assert read_base_model(tree) == read("llava")
    with pytest.raises(UnsupportedError, match=named):
        read_base_model(changed(tree, ("vision_encoder", *path), value))
