"""Puts images into the inputs of a model that sees: several sizes, several in a row, and none.

An image is a run of the model's image token, one for each patch; transformers and Fast-LLM put the features there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ci.errors import RequestError
from ci.hub.config_numbers import read_count
from ci.subjects.images import Images, describe_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ci.equivalence.input_case import InputCase

SHAPES = ((2, 3), (3, 2), (1, 4), (2, 2))
"""Height and width of the images, in patches: both orientations, a single row of patches, a square."""
GAP = 2
"""Tokens of text before each image."""
FAR_SIDE = 128
"""Patches along a side of the largest image at most: Pixtral's have 64."""

FIXED_SIZE_TOWERS = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model")
"""Towers with learned positions: transformers refuses an image of another size, and CLIP adds a class token."""
DEFAULT_TOWERS = {"llava": "clip_vision_model"}
"""The type of the tower where `vision_config` names none, by the model's: transformers, configuration_llava.py."""


@dataclass(frozen=True)
class ImageRequirements:
    """What images must be: the model's image token, and the pixels along one side of a token's patch.

    `side` is the most patches along a side that the model's config names; 0 where it names none.
    """

    token: int
    patch: int
    channels: int
    side: int = 0


def read_image_requirements(config: Mapping[str, Any]) -> ImageRequirements | None:
    """Read the vision part of a Hugging Face config.json; None for a model without one.

    Raises RequestError for a size that no model has, and for a tower that takes images of one size only.
    """
    vision = config.get("vision_config")
    token = config.get("image_token_index", config.get("image_token_id"))
    if isinstance(nested := config.get("vision_encoder"), Mapping):  # Fast-LLM's apriel2
        embeddings = nested.get("embeddings") or {}
        vision = {"patch_size": embeddings.get("patch_height"), "num_channels": embeddings.get("input_channels")}
        vision["image_size"] = next(_find_values(nested, "max_image_size"), None)
    if not isinstance(vision, Mapping) or not isinstance(token, int):
        return None
    _refuse_fixed_size(config, vision)
    patch = read_count(vision, "patch_size", what="config.json: vision_config")
    merged = config.get("spatial_merge_size") or 1
    largest = vision.get("image_size")
    side = largest // (patch * merged) if isinstance(largest, int) else 0
    return ImageRequirements(token, patch * merged, vision.get("num_channels") or 3, side)


def _refuse_fixed_size(config: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
    kind = vision.get("model_type") or DEFAULT_TOWERS.get(str(config.get("model_type")))
    if kind in FIXED_SIZE_TOWERS:
        raise RequestError(
            f"config.json: vision_config: hub-tests cannot compare a tower of type {kind!r} yet: it takes images of "
            "one size, and its patches are not its image tokens one by one; name a model with a Pixtral tower"
        )


def _find_values(node: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key, however deep it is."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if name == key:
            yield value
        yield from _find_values(value, key)


def add_images(cases: tuple[InputCase, ...], needs: ImageRequirements, seed: int) -> tuple[InputCase, ...]:
    """Return the cases with images in most rows, and a last case of text alone.

    The first row has two images and the second none; a part of another case has the images of its row.
    """
    whole = [_place_images(case, needs, seed + i) for i, case in enumerate(cases) if not case.part_of]
    by_name = {case.name: case for case in whole}
    parts = {case.name: _cut_part(case, by_name[case.part_of]) for case in cases if case.part_of}
    batch = cases[0]
    text = _avoid_token(batch.ids[:1, :], needs.token)
    ordered = [by_name.get(case.name) or parts[case.name] for case in cases]
    return (*ordered, replace(batch, name="text", ids=text, mask=None, rows=("no image",)))


def add_far_images(case: InputCase, needs: ImageRequirements, seed: int) -> InputCase:
    """Return a case of one row that ends with images: one line of patches, and two columns, as long as may be.

    (One column alone makes PyTorch's convolution in bfloat16 read foreign memory on CPUs with AMX.) Where the row is
    too short for these it ends with a small one.
    """
    side, length = min(needs.side, FAR_SIDE), case.ids.shape[1]
    shapes = [(1, side), (side, 2)] if side and 5 * (side + GAP) < length else [*SHAPES[:1]]
    ids, end = _avoid_token(case.ids, needs.token), length - 1
    for tall, wide in reversed(shapes):
        ids[0, end - tall * wide : end] = needs.token
        end -= tall * wide + GAP
    return replace(case, ids=ids, images=_draw_images(shapes, [0] * len(shapes), needs, seed), image_token=needs.token)


def _place_images(case: InputCase, needs: ImageRequirements, seed: int) -> InputCase:
    ids, shapes, rows = _avoid_token(case.ids, needs.token), [], []
    for row in range(len(ids)):
        at = int((~case.keep[row]).sum())
        count = (2, 0)[row] if row < 2 and len(ids) > 1 else 1
        for shape in (SHAPES[(row + number) % len(SHAPES)] for number in range(count)):
            at += GAP
            end = at + shape[0] * shape[1]
            if end + 1 >= ids.shape[1]:
                break
            ids[row, at:end] = needs.token
            shapes.append(shape)
            rows.append(row)
            at = end
    if not shapes:
        return replace(case, ids=ids)
    return replace(case, ids=ids, images=_draw_images(shapes, rows, needs, seed), image_token=needs.token)


def place_images_in_halves(
    ids: Tensor, needs: ImageRequirements, seed: int, lengths: Sequence[int]
) -> tuple[Tensor, Images]:
    """Return the ids (documents, T) with an image in each half of every document, and the images.

    The rows' lengths are `lengths`.
    """
    ids, shapes, rows = _avoid_token(ids, needs.token), [], []
    for row, length in enumerate(lengths):
        for half in range(2):
            shape = SHAPES[(row + half) % len(SHAPES)]
            begin = GAP + half * (length // 2)
            ids[row, begin : begin + shape[0] * shape[1]] = needs.token
            shapes.append(shape)
            rows.append(row)
    return ids, _draw_images(shapes, rows, needs, seed)


def _draw_images(shapes: list[tuple[int, int]], rows: list[int], needs: ImageRequirements, seed: int) -> Images:
    """Draw pixels N(0, 1), as a processor's normalization leaves them, zero outside of an image."""
    sizes = torch.tensor(shapes) * needs.patch
    height, width = (int(size) for size in sizes.amax(0))
    pixels = torch.randn(len(rows), needs.channels, height, width, generator=torch.Generator().manual_seed(seed))
    for image, (tall, wide) in zip(pixels, sizes.tolist(), strict=True):
        image[:, tall:] = 0
        image[:, :, wide:] = 0
    return Images(pixels, sizes, torch.tensor(rows))


def _cut_part(part: InputCase, whole: InputCase) -> InputCase:
    row, padding = len(whole.ids) - 1, int((~whole.keep[-1]).sum())
    images = whole.images.select_row(row) if whole.images else None
    return replace(part, ids=whole.ids[row:, padding:], images=images, image_token=whole.image_token)


def _avoid_token(ids: Tensor, token: int) -> Tensor:
    """Return the ids without the image token: where no image is, no model may see it."""
    return ids.masked_fill(ids == token, token + 1 if token == 0 else token - 1)


def describe_images(cases: tuple[InputCase, ...]) -> str:
    """Say which images each case has."""
    return "; ".join(f"{case.name}: {describe_sizes(case.images)}" for case in cases)
