"""Thin models show what two layers and short inputs hide: the order of layers, and far positions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoConfig

from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.injection import MutantSubject, Mutation, Patch
from benchmarks.mutation.tiny_models import TINY_MODELS, TinyModel
from ci.equivalence import synthetic_model
from ci.equivalence.checkpoint_tensors import CheckpointTensors
from ci.equivalence.image_inputs import ImageRequirements
from ci.equivalence.inputs import InputRequirements
from ci.equivalence.synthetic_model import Reach, build_far_case, find_reach, shrink_config, write_synthetic_model
from ci.errors import SubjectError
from ci.subjects.reference.subject import ReferenceSubject
from tests.standin.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

CONTEXT = 4200
"""Of the model of these tests: beyond float16's exact integers, and quick."""


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A llama with a context of CONTEXT tokens."""
    model = TinyModel("far", "llama", {"head_dim": 16, "max_position_embeddings": CONTEXT})
    return Experiment(model, tmp_path_factory.mktemp("far"))


def sort_layers_as_text(weights: dict[str, Tensor], _: Any) -> None:
    """Give layer i the weights of the i-th layer in the order of their names as text: 0, 1, 10, 11, 2, …"""
    pattern = re.compile(r"^decoder\.(\d+)\.")
    before = dict(weights)
    layers = sorted({match[1] for name in before if (match := pattern.match(name))})
    for place, layer in enumerate(layers):
        for name in before:
            if name.startswith(f"decoder.{place}."):
                weights[name] = before[pattern.sub(f"decoder.{layer}.", name)]


def change_positions(change: Callable[[Tensor], Tensor]) -> Patch:
    """Compute the angles from changed positions."""
    return Patch(
        "ci.subjects.reference.model",
        "rotary_tables",
        lambda right: lambda rope, head, positions, dtype: right(rope, head, change(positions), dtype),
    )


POSITION_BUGS: dict[str, Callable[[Tensor], Tensor]] = {
    "rounded to float16": lambda positions: positions.half(),
    "modulo 1024": lambda positions: positions % 1024,
    "modulo 4096": lambda positions: positions % 4096,
    "beyond a cached table": lambda positions: positions.clamp(max=4095),
}


def judge_of(experiment: Experiment, mutation: Mutation | None = None) -> Any:
    subject = MutantSubject(mutation) if mutation else ReferenceSubject()
    return experiment.judge(subject, experiment.converted)


def test_layers_in_their_order_are_green_and_layers_sorted_as_text_are_not(dense: Experiment) -> None:
    (right,) = judge_of(dense).check_layer_order()
    assert right.passed, right.diagnosis
    assert {m.tensor for m in right.measures} >= {f"decoder.{layer}" for layer in range(12)}
    assert not list((dense.workdir / "judge").glob("layers-*")), "the thin model goes with its check"
    mutation = Mutation("text order", "layer order", "decoder.2", weights=sort_layers_as_text)
    assert judge_of(dense, mutation).check_forward(dtype="float32", variant={}).passed, "four layers do not show it"
    (wrong,) = judge_of(dense, mutation).check_layer_order()
    assert not wrong.passed
    assert (wrong.layer, wrong.component) == (2, "conversion"), wrong.diagnosis


def test_far_positions_are_green(far: Experiment) -> None:
    verdicts = judge_of(far).check_positions()
    assert all(verdict.passed for verdict in verdicts), [verdict.diagnosis for verdict in verdicts]
    assert [sorted({m.dtype for m in verdict.measures}) for verdict in verdicts] == [["float32"], ["bfloat16"]]
    assert {verdict.coverage["positions"] for verdict in verdicts} == {f"up to {CONTEXT - 1} of {CONTEXT - 1}"}


@pytest.mark.parametrize("bug", POSITION_BUGS)
def test_wrong_far_positions_are_red_and_named(far: Experiment, bug: str) -> None:
    mutation = Mutation(bug, "positions", "decoder.0.mixer.query", patches=(change_positions(POSITION_BUGS[bug]),))
    exact, native = judge_of(far, mutation).check_positions()
    assert (exact.passed, native.passed) == (False, False)
    assert (exact.layer, exact.component) == (0, "kernel"), exact.diagnosis
    assert "query" in exact.diagnosis or "rotary" in exact.diagnosis or "RoPE" in exact.diagnosis


@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_thin_model_of_each_kind_is_converted_and_right(name: str, tmp_path: Path) -> None:
    experiment = Experiment(TINY_MODELS[name], tmp_path)
    (verdict,) = judge_of(experiment).check_layer_order()
    assert verdict.passed, verdict.diagnosis


def config_of(kind: str, **changes: Any) -> dict[str, Any]:
    return dict(json.loads(AutoConfig.for_model(kind, **changes).to_json_string(use_diff=False)))


def test_a_thin_config_keeps_all_that_shapes_do_not_decide() -> None:
    config = config_of("qwen2", use_sliding_window=True, max_window_layers=1, sliding_window=77)
    thin = shrink_config(config, 12)
    kept = ("rope_parameters", "rms_norm_eps", "hidden_act", "sliding_window", "tie_word_embeddings", "model_type")
    assert {key: thin[key] for key in kept} == {key: config[key] for key in kept}
    assert thin["hidden_size"] // thin["num_attention_heads"] == config["hidden_size"] // config["num_attention_heads"]
    assert len(thin["layer_types"]) == 12
    assert set(thin["layer_types"]) == {"full_attention", "sliding_attention"}


def test_heads_that_share_keys_still_share_them_and_others_do_not() -> None:
    shared, alone = (config_of("llama", num_key_value_heads=count) for count in (8, 32))
    assert shrink_config(shared, 1)["num_key_value_heads"] < shrink_config(shared, 1)["num_attention_heads"]
    assert shrink_config(alone, 1)["num_key_value_heads"] == shrink_config(alone, 1)["num_attention_heads"]


def test_a_mixture_stays_one_and_special_ids_beyond_the_vocabulary_go() -> None:
    thin = shrink_config(config_of("mixtral", bos_token_id=1, eos_token_id=[2, 99_999]), 2)
    assert (thin["num_local_experts"], thin["num_experts_per_tok"]) == (4, 2)
    assert (thin["bos_token_id"], thin["eos_token_id"]) == (1, None)


def test_a_config_of_another_form_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"^no thin model: config\.json of mamba has no sizes at its top level$"):
        shrink_config({"model_type": "mamba"}, 2)
    with pytest.raises(SubjectError, match=r"^no thin model: config\.json of llava has no sizes in its text_config$"):
        shrink_config({"model_type": "llava", "text_config": {}}, 2)
    with pytest.raises(SubjectError, match="no thin model: transformers refuses it") as raised:
        write_synthetic_model({"model_type": "nobody's"}, tmp_path / "model")
    assert "\n" not in str(raised.value)


def test_both_sections_of_a_model_with_images_become_thin() -> None:
    config = {**RECIPES["stand-in/llava"].config, "image_token_index": 600}
    text, vision = config["text_config"], config["vision_config"]
    thin = shrink_config(config, 12)
    depths = [thin[name]["num_hidden_layers"] for name in ("text_config", "vision_config")]
    assert depths == [12, 12], "the blocks of a tower have an order too"
    assert thin["text_config"]["hidden_size"] == 2 * text["head_dim"]
    assert thin["vision_config"]["hidden_size"] == 2 * vision["head_dim"]
    kept = ("patch_size", "image_size", "hidden_act", "model_type", "head_dim")
    assert {key: thin["vision_config"][key] for key in kept} == {key: vision[key] for key in kept}
    assert thin["text_config"]["rms_norm_eps"] == text["rms_norm_eps"]
    assert thin["image_token_index"] == 510, "inside the thin vocabulary"
    assert config["vision_config"] is vision
    assert vision["num_hidden_layers"] != 12


def test_sizes_that_a_section_leaves_out_are_read_from_transformers() -> None:
    config = RECIPES["stand-in/llava"].config
    bare = {**config, "text_config": {"model_type": "mistral", "rms_norm_eps": 0.5}}
    thin = shrink_config(bare, 2, config)["text_config"]
    sizes = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "intermediate_size")
    assert [thin[key] for key in sizes] == [2, 2, 1, 0.5, 192]


def test_every_weight_is_drawn_from_the_seed_in_the_published_dtype(tmp_path: Path) -> None:
    config = shrink_config(config_of("llama") | {"torch_dtype": "bfloat16"}, 2)
    first, again, other = (
        CheckpointTensors(write_synthetic_model(config, tmp_path / str(i), seed=seed))
        for i, seed in enumerate((1, 1, 2))
    )
    name = "model.layers.1.mlp.up_proj.weight"
    assert str(first.read(name).dtype) == "torch.bfloat16"
    assert bool((first.read(name) == again.read(name)).all())
    assert not bool((first.read(name) == other.read(name)).all())


GB = 10**9
THIN = InputRequirements(vocabulary=512, hidden=256, heads=2, positions=4096)


@pytest.mark.parametrize(
    ("needs", "device", "free", "expected"),
    [
        (THIN, "cpu", 20 * GB, Reach(4096, 4096)),
        (replace(THIN, positions=131_072), "cpu", 64 * GB, Reach(8448, 131_072, "capped at 8448 tokens on cpu")),
        (replace(THIN, positions=None), "cpu", 64 * GB, Reach(8448, 8448)),
    ],
)
def test_an_input_reaches_the_end_of_the_context_or_says_what_stops_it(
    needs: InputRequirements, device: str, free: int, expected: Reach
) -> None:
    assert find_reach(needs, device, free) == expected


def test_little_memory_shortens_the_input_and_says_so() -> None:
    reach = find_reach(replace(THIN, positions=131_072), "cuda", 4 * GB)
    assert 1024 < reach.length < 8448
    assert str(reach) == f"up to {reach.length - 1} of 131071, capped by 4.0 GB of free memory"


@pytest.mark.parametrize(("side", "shapes"), [(16, [(4, 64), (64, 8)]), (0, [(8, 12)]), (300, [(8, 12)])])
def test_the_far_case_ends_with_the_longest_images_that_fit(side: int, shapes: list[tuple[int, int]]) -> None:
    case = build_far_case(300, 1, ImageRequirements(token=10, patch=4, channels=3, side=side))
    assert case.images is not None
    assert [tuple(size) for size in case.images.sizes.tolist()] == shapes
    tokens = (case.ids[0] == 10).nonzero().flatten()
    assert len(tokens) == sum(height * width // 16 for height, width in shapes)
    assert int(tokens[-1]) == 298, "far out, and a token of text reads them"


def test_the_far_case_is_one_row_of_the_thin_vocabulary() -> None:
    case = build_far_case(300, seed=1)
    assert case.ids.shape == (1, 300)
    assert int(case.ids.max()) < synthetic_model.VOCABULARY
    assert case.mask is None
