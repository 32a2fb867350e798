"""Two traces side by side: structure comes first, flips excuse what they must and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ci.equivalence.tolerances import FLIP_GAP_FACTOR
from ci.equivalence.trace_compare import BatchSlice, TraceComparison, TraceDiff, compare_logits, extract_teacher_trace
from tests.ci.equivalence.traces import B, T, Tensors, noisy, tensors, trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEEP = torch.ones(B, T, dtype=torch.bool)
MLP, ROUTER, TOP = "decoder.0.mlp", "decoder.0.mlp.router_logits", "decoder.0.mlp.router_top_experts"


def compare(
    path: Path, actual: Tensors, expected: Tensors, *, token_limit: float | None = None, carry: bool = True
) -> TraceComparison:
    """`token_limit` is the relative error that a token's router logits may have."""
    return TraceComparison(
        trace(path / "actual", actual),
        trace(path / "expected", expected, dtype="float64"),
        KEEP,
        flip_gap_limit=None if token_limit is None else lambda _: FLIP_GAP_FACTOR * token_limit,
        carry_flips=carry,
        compare_predictions=True,
    )


def test_every_tensor_is_compared_in_execution_order(tmp_path: Path) -> None:
    right = tensors()
    diff = compare(tmp_path, noisy(right), right).run()
    assert list(diff.tensors) == list(right)
    assert max(difference.error for difference in diff.tensors.values()) < 5e-7
    assert diff.predictions["top1_agreement"] == 1.0


@pytest.mark.parametrize(
    ("break_it", "failure_class", "message"),
    [
        (lambda t: t.pop("decoder.1.mixer"), "missing_tensor", "decoder.1.mixer is missing"),
        (lambda t: t.update({"decoder.2": t["decoder.1"]}), "unexpected_tensor", "decoder.2 is in"),
        (
            lambda t: t.update({"decoder.0.mlp": t["decoder.0.mlp"][..., :3]}),
            "shape_mismatch",
            "decoder.0.mlp has shape",
        ),
        (lambda t: t.update({"decoder.0": t["decoder.0"].bfloat16()}), "shape_mismatch", "decoder.0 is bfloat16"),
        (lambda t: t["decoder.1.norm_1"].fill_(float("nan")), "non_finite", "decoder.1.norm_1 is nan"),
    ],
)
def test_structure_comes_before_numbers(
    tmp_path: Path, break_it: Callable[[Tensors], object], failure_class: str, message: str
) -> None:
    right = tensors()
    actual = noisy(right)
    break_it(actual)
    diff = compare(tmp_path, actual, right).run()
    assert [problem.failure_class for problem in diff.problems] == [failure_class]
    assert diff.problems[0].message.startswith(message)


def test_a_tensor_that_the_subject_declared_uncaptured_is_no_problem(tmp_path: Path) -> None:
    right = tensors()
    actual = noisy(right)
    del actual["decoder.0.mixer"]
    reader = trace(tmp_path / "actual", actual, not_captured=("decoder.0.mixer",))
    diff = TraceComparison(reader, trace(tmp_path / "expected", right, dtype="float64"), KEEP).run()
    assert not diff.problems
    assert "decoder.0.mixer" not in diff.tensors


def flipped(right: Tensors, *, gap: float, blocks: int = 2) -> Tensors:
    """Row 0, token 2 chooses other experts, whose logits are `gap` below; its MLP and all that follows are wrong."""
    logits = torch.tensor([3.0, 2.0, 2.0 - gap, -1.0], dtype=torch.float64)
    right[ROUTER][0, 2] = logits
    right[TOP][0, 2] = torch.tensor([0, 1])
    actual = noisy(right)
    actual[TOP][0, 2] = torch.tensor([0, 2])
    for name in (MLP, "decoder.0"):
        actual[name][0, 2] += 1
    for name in ("decoder.1.norm_1", "final_norm")[2 - blocks :]:
        actual[name][0, 2:] += 1
    return actual


def test_a_small_flip_excuses_its_consequences(tmp_path: Path) -> None:
    right = tensors(moe=True)
    actual = flipped(right, gap=1e-6)
    del actual["decoder.1.norm_1"], right["decoder.1.norm_1"]
    diff = compare(tmp_path, actual, right, token_limit=1e-5).run()
    assert diff.tensors[MLP].error < 1e-6
    assert diff.tensors["final_norm"].error < 1e-6
    assert int(diff.tensors["final_norm"].by_token.isnan().sum()) == T - 2
    assert [(layer.small_flips, layer.large_flips) for layer in diff.routing] == [(1, 0), (0, 0)]


def test_what_a_flipped_token_chooses_later_is_its_consequence(tmp_path: Path) -> None:
    right = tensors(moe=True)
    actual = flipped(right, gap=1e-6)
    later = TOP.replace("0", "1")
    del actual["decoder.1.norm_1"], right["decoder.1.norm_1"]
    worst = right[ROUTER.replace("0", "1")].topk(4, dim=-1).indices[..., 2:]
    actual[later][0, 2:] = worst[0, 2:]
    diff = compare(tmp_path, actual, right, token_limit=1e-5).run()
    assert [(one.layer, one.small_flips, one.large_flips) for one in diff.routing] == [(0, 1, 0), (1, 0, 0)]
    assert diff.flip_gaps[later] == 0.0
    actual[later][0, 1] = worst[0, 1]
    diff = compare(tmp_path / "before", actual, right, token_limit=1e-5).run()
    assert [one.large_flips for one in diff.routing] == [0, 1]


@pytest.mark.parametrize(("share", "small"), [(1.05, 1), (0.95, 0)])
def test_a_flip_is_rounding_within_twice_the_token_limit_of_the_router_logits(
    tmp_path: Path, share: float, small: int
) -> None:
    right = tensors(moe=True)
    actual = flipped(right, gap=1e-3)
    token_limit = share * 1e-3 / (2 * float(right[ROUTER][0, 2].norm()))
    assert compare(tmp_path, actual, right, token_limit=token_limit).run().routing[0].small_flips == small


def test_a_large_flip_excuses_nothing(tmp_path: Path) -> None:
    right = tensors(moe=True)
    diff = compare(tmp_path, flipped(right, gap=0.5), right, token_limit=1e-5).run()
    assert diff.tensors[MLP].error > 0.1
    assert diff.routing[0].large_flips == 1
    assert diff.flip_gaps[TOP] == pytest.approx(0.5 / float(right[ROUTER][0, 2].norm()))


def test_before_attention_only_the_flipped_token_is_excused(tmp_path: Path) -> None:
    right = tensors(moe=True)
    diff = compare(tmp_path, flipped(right, gap=1e-6), right, token_limit=1e-5).run()
    assert diff.tensors["decoder.1.norm_1"].error > 0.1  # tokens 3 to 5 were wrong before attention mixed them


def test_a_teacher_forced_block_is_not_excused_by_the_flips_of_an_earlier_one(tmp_path: Path) -> None:
    right = tensors(moe=True)
    diff = compare(tmp_path, flipped(right, gap=1e-6), right, token_limit=1e-5, carry=False).run()
    assert not diff.tensors["decoder.1.mixer.context"].by_token.isnan().any()


def test_a_teacher_forced_head_is_not_excused_by_the_flips_of_the_last_block(tmp_path: Path) -> None:
    right = tensors(blocks=1, moe=True)
    actual = flipped(tensors(blocks=1, moe=True), gap=1e-6, blocks=1)
    right[ROUTER][0, 2], right[TOP][0, 2] = torch.tensor([3.0, 2.0, 2.0 - 1e-6, -1.0]), torch.tensor([0, 1])
    diff = compare(tmp_path, actual, right, token_limit=1e-5, carry=False).run()
    assert bool(diff.tensors[MLP].by_token.isnan().any())
    assert diff.tensors["final_norm"].error > 0.1


def test_tensors_that_a_side_could_not_capture_are_listed(tmp_path: Path) -> None:
    right = tensors()
    less = {name: tensor for name, tensor in right.items() if name != "decoder.0.mixer"}
    mine = {name: tensor for name, tensor in noisy(right).items() if name != "decoder.1.mixer"}
    expected = trace(tmp_path / "expected", less, dtype="float64", not_captured=("decoder.0.mixer",))
    diff = TraceComparison(trace(tmp_path / "actual", mine, not_captured=("decoder.1.mixer",)), expected, KEEP).run()
    assert diff.not_captured == ("decoder.0.mixer", "decoder.1.mixer")


IMAGES = torch.zeros(B, T, dtype=torch.bool)
IMAGES[1, 2:5] = True


def seeing(seed: int = 0) -> Tensors:
    """Tensors with those of a tower of two blocks, which are zero at tokens of text."""
    names = [f"vision_encoder.{name}" for name in ("embeddings", "encoder.0.mlp", "encoder.0", "encoder.1", "adapter")]
    drawn = torch.randn(len(names), B, T, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tower = {name: tensor * IMAGES[..., None] for name, tensor in zip(names, drawn, strict=True)}
    return {**tower, "image_embeddings": tower["vision_encoder.adapter"].clone(), **tensors()}


def compare_images(
    path: Path, actual: Tensors, expected: Tensors, images: torch.Tensor | None = IMAGES, **declared: tuple[str, ...]
) -> TraceDiff:
    """`declared` are the names that one of the two sides says it cannot capture."""
    mine = trace(path / "actual", actual, not_captured=declared.get("mine", ()))
    theirs = trace(path / "expected", expected, dtype="float64", not_captured=declared.get("theirs", ()))
    return TraceComparison(mine, theirs, KEEP, images=images).run()


def test_a_tower_is_compared_at_the_tokens_of_images_alone(tmp_path: Path) -> None:
    right = seeing()
    actual = noisy(right)
    actual["vision_encoder.encoder.1"][0, 0] = 1.0  # a token of text, where a tower has no value
    diff = compare_images(tmp_path, actual, right)
    assert list(diff.tensors) == list(right)
    assert max(difference.error for difference in diff.tensors.values()) < 5e-7
    counted = ~diff.tensors["vision_encoder.adapter"].by_token.isnan()
    assert torch.equal(counted, IMAGES)
    assert not bool(diff.tensors["embeddings"].by_token.isnan().any())


@pytest.mark.parametrize("images", [None, torch.zeros(B, T, dtype=torch.bool)])
def test_a_part_without_an_image_has_no_tower(tmp_path: Path, images: torch.Tensor | None) -> None:
    diff = compare_images(tmp_path, noisy(tensors()), seeing(), images)
    assert not diff.problems
    assert list(diff.tensors) == list(tensors())


def test_a_subject_without_hooks_on_its_tower_has_nothing_of_it_compared(tmp_path: Path) -> None:
    diff = compare_images(tmp_path, noisy(tensors()), seeing())
    assert not diff.problems
    assert set(diff.not_captured) == seeing().keys() - tensors().keys()


def test_a_part_of_a_tower_must_be_there_or_declared(tmp_path: Path) -> None:
    right = seeing()
    less = {name: tensor for name, tensor in noisy(right).items() if "encoder.0" not in name}
    (first, *_) = compare_images(tmp_path / "silent", less, right).problems
    assert (first.failure_class, first.tensor) == ("missing_tensor", "vision_encoder.encoder.0.mlp")
    names = ("vision_encoder.encoder.0.mlp", "vision_encoder.encoder.0")
    diff = compare_images(tmp_path / "declared", less, right, mine=names)
    assert not diff.problems
    assert diff.not_captured == names


def test_a_tower_that_hugging_face_has_no_names_for_is_no_surprise(tmp_path: Path) -> None:
    names = ("vision_encoder.embeddings.patch_embeddings", "vision_encoder.adapter")
    assert not compare_images(tmp_path / "declared", noisy(seeing()), tensors(), theirs=names).problems
    (first, *_) = compare_images(tmp_path / "silent", noisy(seeing()), tensors()).problems
    assert (first.failure_class, first.tensor) == ("unexpected_tensor", "vision_encoder.embeddings")


def test_logits_that_cannot_be_compared_are_infinitely_off(tmp_path: Path) -> None:
    right = tensors()
    expected = trace(tmp_path / "expected", right, dtype="float64")
    for number, (logits, off) in enumerate(
        [
            (right["logits"], 0.0),
            (right["logits"] * 1.5, 0.5),
            (right["logits"][..., :-1], float("inf")),
            (right["logits"] * float("nan"), float("inf")),
        ]
    ):
        mine = trace(tmp_path / f"actual-{number}", {**right, "logits": logits}, dtype="float64")
        assert compare_logits(mine, expected, KEEP) == pytest.approx(off)


def test_a_slice_of_the_batch_is_compared_with_that_slice(tmp_path: Path) -> None:
    right, part = tensors(), BatchSlice(row=1, padding=2)
    actual = {name: part.cut(tensor) for name, tensor in noisy(right).items()}
    reader = trace(tmp_path / "actual", actual)
    expected = trace(tmp_path / "expected", right, dtype="float64")
    diff = TraceComparison(reader, expected, torch.ones(1, T - 2, dtype=torch.bool), expected_slice=part).run()
    assert max(difference.error for difference in diff.tensors.values()) < 5e-7
    feed = extract_teacher_trace(expected, part, tmp_path / "feed")
    assert torch.equal(feed.tensor("decoder.1"), right["decoder.1"][1:, 2:])
