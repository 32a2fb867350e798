"""A rewrite that computes the same is green and its symmetry is named; a rewrite done by half stays red."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.mutation.equal_rewrites import EQUAL_REWRITES, NEAR_MISSES
from benchmarks.mutation.experiment import Experiment
from benchmarks.mutation.injection import MutantSubject, Mutation
from benchmarks.mutation.tiny_models import TINY_MODELS
from ci.equivalence.symmetries import ChannelMap, find_channel_map
from ci.subjects.base import ConvertRequest

if TYPE_CHECKING:
    from ci.equivalence.verdict import Verdict


@pytest.fixture(scope="module", params=["dense", pytest.param("moe", marks=pytest.mark.long)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(TINY_MODELS[request.param], tmp_path_factory.mktemp(request.param))


def judge(model: Experiment, mutation: Mutation, dtype: str = "float32", *, explain: bool = False) -> Verdict:
    subject, converted = MutantSubject(mutation), model.workdir / "rewritten"
    shutil.rmtree(converted, ignore_errors=True)
    subject.convert(ConvertRequest(str(model.source), str(converted), model.tiny_model.model_type))
    return model.judge(subject, converted, explain=explain).check_forward(dtype=dtype, variant={})  # type: ignore[arg-type]


@pytest.mark.parametrize("rewrite", EQUAL_REWRITES, ids=lambda r: r.name)
def test_an_equal_rewrite_is_green_in_float32_and_its_symmetry_is_named(model: Experiment, rewrite: Mutation) -> None:
    verdict = judge(model, rewrite)
    assert verdict.passed, verdict.diagnosis
    undone = {measure.tensor.split(".", 2)[-1]: measure.symmetry for measure in verdict.measures if measure.symmetry}
    assert undone, "some internal tensor is another one"
    assert all(measure.used <= 1 for measure in verdict.measures)
    assert any(note.startswith("equal up to an exact symmetry, so right: ") for note in verdict.notes)


@pytest.mark.parametrize("rewrite", [EQUAL_REWRITES[0], EQUAL_REWRITES[4], EQUAL_REWRITES[8]], ids=lambda r: r.name)
def test_an_equal_rewrite_without_new_roundings_is_green_in_the_models_dtype(
    model: Experiment, rewrite: Mutation
) -> None:
    verdict = judge(model, rewrite, "model")
    assert verdict.passed, verdict.diagnosis


@pytest.mark.parametrize("wrong", NEAR_MISSES, ids=lambda r: r.name)
def test_a_rewrite_done_by_half_is_red(model: Experiment, wrong: Mutation) -> None:
    verdict = judge(model, wrong)
    assert not verdict.passed
    assert not any(measure.symmetry for measure in verdict.measures), "nothing is undone where anything is wrong"


def test_the_map_of_channels_is_found_and_undone() -> None:
    torch.manual_seed(0)
    expected = torch.randn(50, 3, 8)
    head, channel, scale = (
        torch.tensor([2, 0, 1]),
        torch.stack([torch.randperm(8) for _ in range(3)]),
        torch.rand(3, 8) + 0.5,
    )
    actual = torch.stack([expected[:, head[h], channel[h]] * scale[h] for h in range(3)], dim=1)
    found = find_channel_map(actual, expected)
    assert found is not None
    assert (found.head.tolist(), found.channel.tolist()) == (head.tolist(), channel.tolist())
    assert torch.allclose(found.scale.float(), scale)
    assert torch.allclose(found.undo(actual).float(), expected)
    assert (found.reorders_heads, found.permutes_channels) == (True, True)


@pytest.mark.parametrize(
    "actual",
    [
        torch.randn(50, 2, 4),
        torch.ones(50, 2, 4),
        torch.zeros(50, 2, 4),
    ],
    ids=["unrelated", "constant", "zero"],
)
def test_what_is_no_map_is_none_or_explains_nothing(actual: torch.Tensor) -> None:
    expected = torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(3))
    found = find_channel_map(actual, expected)
    assert found is None or not torch.allclose(found.undo(actual).float(), expected, atol=1e-2)


def test_channels_of_one_head_that_come_from_two_are_no_map_of_heads() -> None:
    expected = torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(3))
    mixed = expected.flatten(1)[:, [0, 4, 1, 5, 2, 6, 3, 7]].view(50, 2, 4)
    assert find_channel_map(mixed, expected) is None


def test_a_channel_that_fits_where_it_is_is_not_looked_for_elsewhere() -> None:
    expected = torch.randn(50, 1, 4, generator=torch.Generator().manual_seed(3))
    expected[..., 1] = expected[..., 0]
    found = find_channel_map(expected, expected)
    assert found is not None
    assert not found.permutes_channels


def test_an_empty_expectation_has_no_map() -> None:
    assert find_channel_map(torch.ones(5, 1, 2), torch.zeros(5, 1, 2)) is None
    assert isinstance(find_channel_map(torch.ones(5, 1, 1), torch.ones(5, 1, 1)), ChannelMap)
