from __future__ import annotations

import pytest
import torch

from ci.equivalence.image_inputs import ImageRequirements, describe_images, read_image_requirements
from ci.equivalence.inputs import build_cases, read_requirements
from ci.errors import RequestError
from ci.models import TestParams
from tests.standin.recipes import RECIPES

CONFIG = RECIPES["stand-in/llava"].config
CASES = build_cases(read_requirements(CONFIG), TestParams(2, 48, 1.0), text=None, free_bytes=10**10)


def test_what_images_must_be_is_read_from_the_config() -> None:
    assert read_image_requirements(CONFIG) == ImageRequirements(token=10, patch=4, channels=3, side=16)
    merged = {**CONFIG, "spatial_merge_size": 2, "image_token_id": 7}
    del merged["image_token_index"]
    assert read_image_requirements(merged) == ImageRequirements(token=7, patch=8, channels=3, side=8)
    assert read_image_requirements(RECIPES["stand-in/llama"].config) is None


@pytest.mark.parametrize("kind", [None, "clip_vision_model", "siglip_vision_model"])
def test_a_tower_for_images_of_one_size_is_refused_by_name(kind: str | None) -> None:
    vision = {**CONFIG["vision_config"], "model_type": kind}
    if kind is None:
        del vision["model_type"]
    with pytest.raises(RequestError, match=f"hub-tests cannot compare a tower of type '{kind or 'clip_vision_model'}'"):
        read_requirements({**CONFIG, "vision_config": vision})


def test_llava_without_the_type_of_its_tower_has_clip_in_transformers_too() -> None:
    from transformers import LlavaConfig

    assert LlavaConfig(vision_config={"num_hidden_layers": 2}).vision_config.model_type == "clip_vision_model"


def test_a_tower_that_is_nested_is_read_too() -> None:
    embeddings = {"patch_height": 4, "patch_width": 4, "input_channels": 3}
    norm = {"normalization": {"type": "rms_norm", "epsilon": 1e-5}}
    block = {"mixer": {"type": "attention", "heads": 2}, "mlp": {"type": "mlp", "intermediate_size": 8}, **norm}
    nested = {"decoder": {"type": "fixed", "num_blocks": 2, "block": block}, "hidden_size": 8, "vocab_size": 64}
    seeing = nested | {"vision_encoder": {"embeddings": embeddings}, "image_token_index": 10}
    assert read_requirements(seeing).images == ImageRequirements(token=10, patch=4, channels=3)
    assert read_requirements(nested).images is None
    encoder = {"block": {"mixer": {"rotary": {"max_image_size": 64}}}}
    seeing["vision_encoder"] = {"embeddings": embeddings, "encoder": encoder}
    assert read_requirements(seeing).images == ImageRequirements(token=10, patch=4, channels=3, side=16)


def test_each_case_has_one_image_token_for_each_patch_in_the_order_of_the_images() -> None:
    for case in CASES:
        tokens = (case.ids == 10).sum(1).tolist()
        wanted = [0] * len(case.ids)
        for row, (height, width) in zip(case.images.rows, case.images.sizes, strict=True) if case.images else ():
            wanted[int(row)] += int(height // 4 * (width // 4))
        assert tokens == wanted
        assert not bool(((case.ids == 10) & ~case.keep).any())


def test_there_are_two_images_in_a_row_one_none_and_a_case_of_text_alone() -> None:
    batch, text = CASES[0], CASES[-1]
    assert batch.images is not None
    assert batch.images.rows.bincount(minlength=len(batch.ids)).tolist()[:3] == [2, 0, 1]
    assert len({tuple(size) for size in batch.images.sizes.tolist()}) >= 3
    assert (text.name, text.images, text.mask) == ("text", None, None)
    assert "text: no image" in describe_images(CASES)


def test_pixels_outside_of_an_image_are_zero_and_inside_are_not() -> None:
    images = CASES[0].images
    assert images is not None
    for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True):
        assert bool((pixels[:, :height, :width] != 0).all())
        assert int(pixels.count_nonzero()) == 3 * height * width


def test_the_document_alone_is_the_same_with_the_same_image() -> None:
    batch, alone = CASES[:2]
    assert alone.part_of == "batch"
    assert batch.images is not None
    assert alone.images is not None
    assert torch.equal(alone.ids[0], batch.ids[-1][batch.keep[-1]])
    whole = batch.images.select_row(len(batch.ids) - 1)
    assert whole is not None
    assert torch.equal(alone.images.pixels, whole.pixels)
