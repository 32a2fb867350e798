"""Which tensors belong to which layers, and what kinds of layer there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ci.errors import NotTruncatableError, RequestError
from ci.hub.architectures import find_architecture
from ci.hub.header import TensorInfo
from ci.hub.layers import (
    LayerPrefixes,
    classify_layers,
    count_layers_for_all_kinds,
    describe_missed_kinds,
    find_layers,
    make_choice,
    split_layer_name,
)
from ci.hub.model_config import LayerStack, parse_config
from ci.hub.truncation import list_layer_settings, truncate_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def stack(depth: int, side: Any = "text") -> LayerStack:
    return LayerStack(side, depth, ())


def names(prefix: str, layers: int, *rests: str) -> list[str]:
    return [f"{prefix}.{index}.{rest}" for index in range(layers) for rest in rests or ("w",)]


def find(listed: list[str], *stacks: LayerStack, **about: Any) -> LayerPrefixes:
    return find_layers(listed, stacks, what="config.json", **about)


def keeps(prefixes: LayerPrefixes, name: str, layers: int) -> bool:
    """Whether a tensor stays, under its name, with the first layers."""
    placed = prefixes.place(name, make_choice(layers).positions)
    assert placed in (None, name)
    return placed is not None


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("model.layers.3.mlp.experts.5.w1", ("model.layers", 3, "mlp.experts.5.w1")),
        ("h.0.ln", ("h", 0, "ln")),
        ("model.norm.weight", ("", -1, "model.norm.weight")),
        ("conv1.weight", ("", -1, "conv1.weight")),
        ("a.1", ("", -1, "a.1")),
        ("model.layers.99999999999.w", ("", -1, "model.layers.99999999999.w")),
    ],
)
def test_split(name: str, parts: tuple[str, int, str]) -> None:
    assert split_layer_name(name) == parts


STACKS = [
    "model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "transformer.blocks", "backbone.layers",
    "language_model.model.layers", "model.language_model.layers", "bert.encoder.layer", "thinker.model.layers",
]  # fmt: skip


@pytest.mark.parametrize("prefix", STACKS)
def test_the_text_stack_is_the_list_that_config_counts(prefix: str) -> None:
    others = ["model.embed.weight", "lm_head.weight", *names("vision_tower.encoder.layers", 4), *names("x.convs", 3)]
    prefixes = find([*names(prefix, 4), *others], stack(4))
    assert prefixes == LayerPrefixes({prefix: 4})
    assert [name for name in names(prefix, 4) if keeps(prefixes, name, 2)] == names(prefix, 2)
    assert all(keeps(prefixes, name, 2) for name in others), "another tower lost something"


def test_everything_of_a_kept_module_stays() -> None:
    rests = ("q.weight", "q.weight_scale_inv", "q.qzeros", "q.g_idx", "mlp.experts.7.w1_blocks", "rotary.inv_freq")
    prefixes = find(names("model.layers", 3, *rests), stack(3))
    assert [n for n in names("model.layers", 3, *rests) if keeps(prefixes, n, 1)] == names("model.layers", 1, *rests)


def test_layers_that_predict_further_tokens_go_by_the_record_of_the_model_type() -> None:
    extra = ["model.layers.4.eh_proj.weight", "mtp.layers.0.w", "mtp_block.w"]
    listed = [*names("model.layers", 4), *extra, "lm_head.weight"]
    prefixes = find(listed, stack(4), architecture=find_architecture("qwen3_next"), mtp_layers=1)
    assert [name for name in listed if not keeps(prefixes, name, 4)] == extra
    assert prefixes.list_dropped(listed) == (
        "model.layers.4: 1 tensor",
        "mtp.layers.0: 1 tensor",
        "mtp_block.w: 1 tensor",
    )


@pytest.mark.parametrize("name", ["mtp.layers.0.w", "model.nextn.w", "model.mtp_norms.0.weight", "eagle.fc.weight"])
def test_what_no_record_knows_is_neither_dropped_nor_kept_in_silence(name: str) -> None:
    with pytest.raises(NotTruncatableError, match=f"cannot truncate this yet: {re.escape(name)} looks like") as refused:
        find([*names("model.layers", 4), name], stack(4))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mtp_layers", [0, 1])
def test_layers_beyond_those_that_are_counted_are_not_dropped_in_silence(mtp_layers: int) -> None:
    with pytest.raises(NotTruncatableError, match=r"model\.layers\.5 is beyond the 4 layers"):
        find(names("model.layers", 6), stack(4), mtp_layers=mtp_layers)


@pytest.mark.parametrize("depth", [2, 4])
def test_norms_and_heads_that_the_main_model_shares_with_mtp_stay(depth: int) -> None:
    """mtp_llama: `model.mtp_norms.0` is the main final norm, and the heads follow the last layer, whichever it is."""
    extra = [*names("model.mtp_norms", 3, "weight"), *names("model.mtp_heads", 2)]
    listed = [*names("model.layers", depth), *extra]
    prefixes = find(listed, stack(depth), architecture=find_architecture("mtp_llama"))
    assert [name for name in listed if keeps(prefixes, name, 1)] == ["model.layers.0.w", *extra]
    assert prefixes.list_dropped(listed) == ()


def test_chosen_layers_are_renumbered() -> None:
    listed = [*names("model.layers", 4), "lm_head.weight", "vision.layers.3.w"]
    prefixes, choice = find(listed, stack(4)), make_choice((0, 3))
    assert (choice.layers, choice.kept) == (2, (0, 3))
    placed = {name: prefixes.place(name, choice.positions) for name in listed}
    assert {old: new for old, new in placed.items() if new} == {
        "model.layers.0.w": "model.layers.0.w",
        "model.layers.3.w": "model.layers.1.w",
        "lm_head.weight": "lm_head.weight",
        "vision.layers.3.w": "vision.layers.3.w",
    }
    assert make_choice((0, 1)) == make_choice(2), "the first layers have one name in the store"


def test_adapters_of_dropped_layers_go() -> None:
    """zamba2: each use of a shared block has its own adapters, numbered by the uses."""
    rests = [f"shared.gate_adapter_list.{n}.0.weight" for n in range(3)]
    listed = names("model.layers", 7, "norm.weight", *rests)
    prefixes = find(listed, stack(7), architecture=find_architecture("zamba2"), item_layers=(1, 3, 5))
    kept = [name for name in listed if keeps(prefixes, name, 4)]
    assert kept == names("model.layers", 4, "norm.weight", *rests[:2])


def test_a_count_of_layers_is_no_size_in_memory() -> None:
    with pytest.raises(RequestError, match="no list of tensors has as many"):
        find(names("model.layers", 3), stack(10**18))


def test_a_layer_that_is_spread_over_several_lists() -> None:
    """XLM has a list of attentions, one of feed-forward networks and two of norms, each with one entry a layer."""
    lists = [f"transformer.{name}" for name in ("attentions", "layer_norm1", "ffns", "layer_norm2")]
    listed = [name for prefix in lists for name in names(prefix, 6)] + ["transformer.embeddings.weight"]
    found = find(listed, stack(6), architecture=find_architecture("xlm"))
    assert dict(found.prefixes) == dict.fromkeys(lists, 6)
    assert keeps(found, "transformer.ffns.1.w", 2)
    assert not keeps(found, "transformer.layer_norm2.2.w", 2)
    assert keeps(found, "transformer.embeddings.weight", 2)
    assert found.place("transformer.attentions.5.w", {5: 0}) == "transformer.attentions.0.w"
    for other in (listed[6:], listed[1:]):  # a list is missing, or one of its entries
        with pytest.raises(NotTruncatableError, match="several lists of tensors"):
            find(other, stack(6), architecture=find_architecture("xlm"))
    with pytest.raises(NotTruncatableError, match="several lists of tensors"):
        find(listed, stack(6))


def test_encoder_and_decoder_are_told_apart() -> None:
    listed = [*names("model.encoder.layers", 4), *names("model.decoder.layers", 4)]
    prefixes = find(listed, stack(4, "encoder"), stack(4, "decoder"))
    assert prefixes == LayerPrefixes({"model.encoder.layers": 4, "model.decoder.layers": 4})
    assert [n for n in listed if keeps(prefixes, n, 1)] == ["model.encoder.layers.0.w", "model.decoder.layers.0.w"]


def test_a_shallow_stack_keeps_all_it_has() -> None:
    prefixes = find([*names("encoder.block", 6), *names("decoder.block", 2)], stack(6, "encoder"), stack(2, "decoder"))
    assert keeps(prefixes, "decoder.block.1.w", 4)
    assert not keeps(prefixes, "encoder.block.4.w", 4)


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        (names("model.layers", 3), r"config\.json says 4 layers, no list of tensors has as many: model\.layers \(3\)"),
        ([], "no list of tensors has as many: none"),
        (["model.layers.0.w", "model.layers.3.w"], r"model\.layers \(2\)"),
        ([*names("a.layers", 4), *names("b.layers", 4)], "several lists of tensors have as many: a.layers, b.layers"),
        ([*names("m.layers", 4), *names("m.scales", 4)], "m.scales beside m.layers has one entry a layer too"),
        (names("vision_model.encoder.layers", 4), "no list of tensors has as many: none"),
    ],
)
def test_what_cannot_be_told_is_refused(listed: list[str], problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as refused:
        find(listed, stack(4))
    assert "\n" not in str(refused.value)


Shapes = dict[str, tuple[int, ...]]


def model(*layers: Shapes, dtype: str = "BF16") -> dict[str, TensorInfo]:
    listed = {f"model.layers.{i}.{name}": shape for i, layer in enumerate(layers) for name, shape in layer.items()}
    return {name: TensorInfo(name, dtype, shape, 0, 0) for name, shape in listed.items()}


DENSE: Shapes = {"attn.w": (8, 8), "mlp.w": (16, 8)}
MOE: Shapes = {"attn.w": (8, 8), "mlp.gate.w": (2, 8), "mlp.experts.0.w": (4, 8), "mlp.experts.1.w": (4, 8)}


def told(layers: list[Shapes], settings: Sequence[tuple[str, ...]] = ()) -> tuple[int, tuple[str, ...]]:
    kinds = classify_layers(
        model(*layers), LayerPrefixes({"model.layers": len(layers)}), settings or [()] * len(layers)
    )
    return count_layers_for_all_kinds(kinds), describe_missed_kinds(kinds, 2)


def test_layers_all_alike_need_one() -> None:
    assert told([DENSE] * 5) == (1, ())


def test_the_dense_prefix_of_deepseek() -> None:
    assert told([DENSE, DENSE, DENSE, MOE, MOE]) == (
        4,
        ("layer 3: with mlp.experts.*.w and mlp.gate.w, without mlp.w",),
    )


def test_kinds_by_config_alone() -> None:
    sliding, full = ('layer_types="sliding"',), ('layer_types="full"',)
    assert told([DENSE] * 6, [sliding] * 5 + [full]) == (6, ('layer 5: layer_types="full"',))
    assert told([DENSE] * 3, [("in moe_layers",), ("in moe_layers",), ()]) == (3, ("layer 2: not in moe_layers",))


def test_kinds_by_shape_or_dtype() -> None:
    wide: Shapes = {**DENSE, "mlp.w": (32, 8)}
    assert told([DENSE, DENSE, wide]) == (3, ("layer 2: other dtypes or shapes",))
    tensors = model(DENSE, DENSE) | {"model.layers.1.mlp.w": TensorInfo("", "F8_E4M3", (16, 8), 0, 0)}
    assert count_layers_for_all_kinds(classify_layers(tensors, LayerPrefixes({"model.layers": 2}), [(), ()])) == 2


def test_many_names_are_said_shortly() -> None:
    many: Shapes = {f"extra{n}.w": (1,) for n in range(9)}
    assert told([DENSE, DENSE, {**DENSE, **many}])[1] == ("layer 2: with extra0.w and extra1.w and 7 more",)


ARCHITECTURES = {
    "cohere2": 4, "deepseek_v3": 4, "falcon": 1, "gemma2": 2, "gemma3_text": 6, "glm4_moe": 2, "gpt2": 1, "gpt_neox": 1,
    "gpt_oss": 2, "llama": 1, "mamba2": 1, "mixtral": 1, "mpt": 1, "nemotron_h": 4, "olmo3": 4, "opt": 1, "phi3": 1,
    "qwen2": 1, "qwen3_moe": 1, "qwen3_next": 4, "smollm3": 4,
}  # fmt: skip
"""Model types, and the fewest layers that hold every kind of theirs."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_is_kept_is_what_the_truncated_model_has(model_type: str, tmp_path: Path) -> None:
    """Names and shapes of transformers' own models, built without weights, whole and truncated."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    def build(config: Any) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            return {name: tuple(t.shape) for name, t in AutoModelForCausalLM.from_config(config).state_dict().items()}

    deep = CONFIG_MAPPING[model_type](**({} if model_type == "nemotron_h" else {"num_hidden_layers": 8}))
    text, whole = deep.to_json_string(use_diff=False), build(deep)
    config = parse_config(text, what=model_type)
    prefixes = find_layers(whole, config.stacks, what=model_type)
    for count in (2, config.depth):
        (tmp_path / "config.json").write_text(truncate_config(config, count))
        kept = {name: shape for name, shape in whole.items() if keeps(prefixes, name, count)}
        assert kept == build(type(deep).from_json_file(tmp_path / "config.json"))
    tensors = {name: TensorInfo(name, "F32", shape, 0, 0) for name, shape in whole.items()}
    assert (
        count_layers_for_all_kinds(classify_layers(tensors, prefixes, list_layer_settings(config)))
        == ARCHITECTURES[model_type]
    )
