"""The documents and settings of a step make every factor visible."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from ci.equivalence.adamw_oracle import OptimizerHistory, compute_updates
from ci.equivalence.hf_reference import ReferenceRun
from ci.equivalence.image_inputs import ImageRequirements
from ci.equivalence.training_reference import TrainingReference, choose_settings, compare_numbers, draw_documents
from ci.errors import NotComparedError, SubjectError
from ci.layouts import LAYOUTS
from ci.models import TestParams
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.images import find_image_problem, split_images, take_images
from tests.ci.equivalence.test_reference_runner import CodeUnderTest
from tests.ci.subjects.own_code import break_backward, save_code, save_config

if TYPE_CHECKING:
    from pathlib import Path


def test_documents_are_unequal_masked_and_padded() -> None:
    drawn = draw_documents(50, 1)
    ids, lengths, mask = drawn["input_ids"], drawn["lengths"], drawn["loss_mask"]
    assert len(set(lengths[:4].tolist())) == 4
    assert all((length - 1) % 8 == 0 for length in lengths.tolist())
    for row, length, counted in zip(ids, lengths.tolist(), mask, strict=True):
        assert not row[length:].any()
        assert not counted[length - 1 :].any(), "no padding is predicted"
        assert 0 < int(counted.sum()) < length - 1
    assert torch.equal(ids, draw_documents(50, 1)["input_ids"])


def test_an_update_follows_the_size_of_its_gradient() -> None:
    gradient = torch.randn(40, 25, generator=torch.Generator().manual_seed(0))
    settings = choose_settings(float(gradient.norm()), gradient.numel())
    assert settings.max_gradient_norm == pytest.approx(float(gradient.norm()) / 2, rel=1e-3)
    sizes = [
        float(compute_updates(OptimizerHistory(gradient, (gradient,), (scale,)), settings)[0].norm())
        for scale in (0.5, 1.0)
    ]
    assert sizes[1] > 1.2 * sizes[0], "with a small epsilon both would be equal"


def test_a_number_that_is_missing_is_infinitely_wrong() -> None:
    assert compare_numbers(None, 1.0) == compare_numbers(math.nan, 1.0) == math.inf
    assert compare_numbers(1.1, 1.0) == pytest.approx(0.1)
    assert compare_numbers(0.0, 0.0) == 0.0


def test_a_model_that_sees_gets_an_image_in_each_half_of_every_document() -> None:
    drawn = draw_documents(50, 1, ImageRequirements(token=10, patch=4, channels=3))
    ids, lengths, mask = drawn["input_ids"], drawn["lengths"].tolist(), drawn["loss_mask"]
    for document, images in enumerate(split_images(take_images(dict(drawn)), len(ids))):
        assert images is not None
        row, length = ids[document], lengths[document]
        patches = [int(height // 4 * (width // 4)) for height, width in images.sizes]
        halves = [int((part == 10).sum()) for part in (row[: length // 2], row[length // 2 : length])]
        assert halves == patches, f"document {document}"
        assert not bool(mask[document][row[1:] == 10].any()), "no patch is a target"
    assert find_image_problem(take_images(dict(drawn)), len(ids)) is None  # type: ignore[arg-type]


def test_the_padding_token_is_in_no_document() -> None:
    plain, without = draw_documents(50, 1), draw_documents(50, 1, padding=7)
    assert bool((plain["input_ids"] == 7).any())
    assert not bool((without["input_ids"] == 7).any())


@pytest.mark.parametrize(("side", "kind"), [(CodeUnderTest, SubjectError), (HuggingFace, NotComparedError)])
def test_only_a_tested_commit_answers_for_steps_of_its_modelling_code(
    side: type[HuggingFace], kind: type[SubjectError], tmp_path: Path
) -> None:
    hugging_face = side(code=break_backward(save_code(tmp_path / "code")))
    config = save_config(tmp_path / "config", ("attention",))
    hugging_face.write_model(str(config), str(tmp_path / "model"), "float32", 3)
    run = ReferenceRun(tmp_path / "model", TestParams(2, 16, 1.0), hugging_face, "cpu", tmp_path / "work")
    training = TrainingReference(run, ("mtp_llama", "gpt"), tmp_path / "training")
    with pytest.raises(SubjectError, match=r"cannot train this model: .*a broken backward pass") as failed:
        training.get(LAYOUTS["single"])
    assert type(failed.value) is kind
