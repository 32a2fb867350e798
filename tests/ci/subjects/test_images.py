from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ci.errors import RequestError
from ci.subjects.forward import read_inputs
from ci.subjects.hugging_face.float64_mode import Float64Mode
from ci.subjects.images import Images, describe_sizes, find_image_problem

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = Images(
    torch.randn(3, 3, 8, 6, generator=torch.Generator().manual_seed(1)),
    torch.tensor([[8, 4], [4, 6], [4, 2]]),
    torch.tensor([0, 0, 2]),
)
IDS = torch.arange(12).view(3, 4)


def test_images_come_back_from_the_inputs_file_whatever_float32_means(tmp_path: Path) -> None:
    path = tmp_path / "inputs.safetensors"
    save_file({"input_ids": IDS, **IMAGES.to_tensors()}, path)
    with Float64Mode():
        images = read_inputs(path).images
    assert images is not None
    assert images.pixels.equal(IMAGES.pixels)
    assert images.sizes.equal(IMAGES.sizes)
    assert images.to_arguments(torch.float64)["pixel_values"].dtype == torch.float64


def test_a_row_has_its_own_images_without_padding_that_only_others_need(tmp_path: Path) -> None:
    path = tmp_path / "inputs.safetensors"
    save_file({"input_ids": IDS, **IMAGES.to_tensors()}, path)
    rows = [read_inputs(path).select_row(row).images for row in range(3)]
    assert rows[1] is None
    assert rows[0] is not None
    assert rows[0].pixels.equal(IMAGES.pixels[:2])
    assert rows[2] is not None
    assert rows[2].pixels.equal(IMAGES.pixels[2:, :, :4, :2])
    assert rows[2].rows.tolist() == [0]


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (replace(IMAGES, pixels=IMAGES.pixels.double()), "pixel_values must be float32"),
        (replace(IMAGES, pixels=IMAGES.pixels[0]), "pixel_values"),
        (replace(IMAGES, sizes=IMAGES.sizes[:2]), r"image_sizes must be int64 \(images, 2\)"),
        (replace(IMAGES, sizes=IMAGES.sizes + 3), "image_sizes must be within"),
        (replace(IMAGES, sizes=IMAGES.sizes * 0), "image_sizes must be within"),
        (replace(IMAGES, rows=torch.tensor([0, 2, 1])), "image_rows must be int64"),
        (replace(IMAGES, rows=torch.tensor([0, 1, 3])), "rows of the batch of 3"),
        (replace(IMAGES, rows=torch.tensor([-1, 1, 2])), "rows of the batch of 3"),
    ],
)
def test_images_that_no_model_could_take_are_refused(images: Images, named: str, tmp_path: Path) -> None:
    assert find_image_problem(IMAGES, 3) is None
    save_file({"input_ids": IDS, **images.to_tensors()}, tmp_path / "i.safetensors")
    with pytest.raises(RequestError, match=named):
        read_inputs(tmp_path / "i.safetensors")


def test_a_part_of_the_images_tensors_is_refused(tmp_path: Path) -> None:
    save_file({"input_ids": IDS, "pixel_values": IMAGES.pixels}, tmp_path / "i.safetensors")
    with pytest.raises(RequestError, match="image_sizes"):
        read_inputs(tmp_path / "i.safetensors")


def test_sizes_are_told() -> None:
    assert describe_sizes(None) == "no image"
    assert describe_sizes(IMAGES) == "3 images (8 x 4, 4 x 6, 4 x 2)"
