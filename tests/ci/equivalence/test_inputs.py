"""Inputs reach what a model's config demands, and say so where they cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ci.equivalence import inputs
from ci.models import TestParams

if TYPE_CHECKING:
    from ci.equivalence.inputs import InputRequirements

CONFIG: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 4}
PLENTY = 1 << 36


def cases(**config: Any) -> tuple[InputRequirements, tuple[inputs.InputCase, ...]]:
    needs = inputs.read_requirements({**CONFIG, **config})
    return needs, inputs.build_cases(needs, TestParams(), text=torch.arange(64), free_bytes=PLENTY)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"sliding_window": 20}, 20),
        ({"sliding_window": 20, "use_sliding_window": False}, None),
        ({"sliding_window": 20, "layer_types": ["full_attention"]}, None),
        ({"sliding_window": 20, "layer_types": ["full_attention", "sliding_attention"]}, 20),
        ({"sliding_window": None}, None),
        ({"text_config": {**CONFIG, "sliding_window": 7}}, 7),
    ],
)
def test_the_window_is_read_only_where_it_acts(config: dict[str, Any], window: int | None) -> None:
    assert inputs.read_requirements({**CONFIG, **config}).window == window


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 48}},
        {"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 48}},
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "original_max_position_embeddings": 48}}},
    ],
)
def test_the_original_length_of_a_scaled_rope(rope: dict[str, Any]) -> None:
    assert inputs.read_requirements({**CONFIG, **rope}).rope_original == 48


@pytest.mark.parametrize(
    ("config", "original"),
    [
        ({"rope_parameters": {"rope_type": "default", "original_max_position_embeddings": 48}}, None),
        ({"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 48}, 48),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 96}, 96),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "max_position_embeddings": 96}, None),
        ({"rope_scaling": None}, None),
        ({"rope_scaling": {"type": None}}, None),
    ],
)
def test_where_a_scaled_rope_begins_to_act(config: dict[str, Any], original: int | None) -> None:
    assert inputs.read_requirements({**CONFIG, **config}).rope_original == original


def test_an_input_too_short_for_padding_is_not_covered() -> None:
    needs = inputs.read_requirements(CONFIG)
    for length, said in ((2, "not covered: 2 tokens leave no room for padding"), (3, "rows of 2, 2 tokens in a batch")):
        built = inputs.build_cases(needs, TestParams(sequence_length=length), text=None, free_bytes=PLENTY)
        assert inputs.describe_coverage(needs, built, free_bytes=PLENTY)["left padding"].startswith(said)


def test_the_batch_holds_every_kind_of_row() -> None:
    _, (batch, alone, _) = cases()
    assert batch.rows == ("random", "random", "text", "document of 42", "document of 21")
    assert batch.ids[0, :2].tolist() == [0, 99]
    assert batch.mask is not None
    assert batch.mask.sum(-1).tolist() == [64, 64, 64, 42, 21]
    assert torch.equal(alone.ids, alone.part.cut(batch.ids))
    assert alone.mask is None
    assert alone.part_of == "batch"


def test_the_same_seed_gives_the_same_inputs() -> None:
    assert torch.equal(cases()[1][0].ids, cases()[1][0].ids)


def test_other_ids_of_the_same_shape_have_another_description() -> None:
    needs, built = cases()
    said = inputs.describe_coverage(needs, built, free_bytes=PLENTY)["inputs"]
    assert said == inputs.describe_coverage(*cases(), free_bytes=PLENTY)["inputs"]
    other = inputs.build_cases(needs, TestParams(), text=torch.arange(64), free_bytes=PLENTY, seed=1)
    assert said != inputs.describe_coverage(needs, other, free_bytes=PLENTY)["inputs"]


def test_a_short_window_is_exceeded_in_the_batch() -> None:
    _, built = cases(sliding_window=100)
    assert [case.ids.shape[1] > 100 for case in built] == [True, False, True]


def test_one_sequence_goes_beyond_the_tiles_of_kernels_unless_positions_end_before() -> None:
    assert cases()[1][-1].ids.shape == (1, 272)
    assert cases(max_position_embeddings=128)[1][-1].ids.shape == (1, 128)


def test_a_long_window_gets_a_sequence_of_its_own() -> None:
    needs, built = cases(sliding_window=4096)
    assert built[-1].name == "long"
    assert built[-1].ids.shape == (1, 4608)
    said = inputs.describe_coverage(needs, built, free_bytes=PLENTY)
    assert said["sliding window"] == "4608 tokens > window 4096"


def test_a_window_beyond_memory_is_not_covered() -> None:
    needs = inputs.read_requirements({**CONFIG, "sliding_window": 4096})
    built = inputs.build_cases(needs, TestParams(), text=None, free_bytes=10_000_000)
    said = inputs.describe_coverage(needs, built, free_bytes=10_000_000)
    assert said["sliding window"].startswith("not covered: capped at")
    assert said["real text"].startswith("not covered")


def test_no_tokenizer_means_no_text(tmp_path: Any) -> None:
    assert inputs.tokenize_text(tmp_path, 100) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    assert inputs.tokenize_text(tmp_path, 100) is None


def test_a_grown_batch_keeps_its_last_document() -> None:
    needs, (batch, _, _) = cases()
    grown = inputs.grow_batch(batch, needs, 3)
    assert len(grown.ids) == 15
    assert torch.equal(inputs.extract_last_document(grown).ids, inputs.extract_last_document(batch).ids)
