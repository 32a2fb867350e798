"""Fast-LLM's documents for a training step: tokens, which of them count as targets, and images as patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ci.subjects.images import Images

PLACEHOLDER = -100
"""Fast-LLM's token in the place of a patch; it is no target."""


def make_document(base_model: Any, ids: Tensor, images: Images | None = None, counted: Tensor | None = None) -> Any:
    """Return Fast-LLM's document of tokens (T,); `counted` (T - 1,) says which predictions count, None for all.

    `base_model` is the configuration that names the image token and a patch's size.
    """
    from fast_llm.data.document.language_model import LanguageModelDocument
    from fast_llm.data.document.range import RangeDocument

    masked = None if counted is None else RangeDocument(ranges=list_masked_spans(counted.tolist()))
    if images is None:
        return LanguageModelDocument(tokens=ids, loss_masking_spans=masked)
    stands_for_image = ids == base_model.image_token_index
    patches = make_patches(base_model, images, stands_for_image.nonzero()[:, 0])
    tokens = ids.masked_fill(stands_for_image, PLACEHOLDER)
    return LanguageModelDocument(tokens=tokens, loss_masking_spans=masked, image_patches=patches)


def make_patches(base_model: Any, images: Images, places: Tensor) -> Any:
    """Return the patches of images, each image without its padding; `places` are the tokens that they stand at."""
    from fast_llm.data.document.patch import PatchDocument
    from fast_llm.data.preparation.image_patch import ImagePreparationConfig

    patch = base_model.vision_encoder.embeddings
    preparation = ImagePreparationConfig(height=patch.patch_height, width=patch.patch_width, do_resize=False)
    whole = [pixels[:, :height, :width] for pixels, (height, width) in zip(images.pixels, images.sizes, strict=True)]
    patches, positions, _, _, lengths = preparation.get_patches_from_images(whole)
    return PatchDocument(patches=patches, token_map=places, positions=positions, lengths=lengths)


def make_batch(documents: Sequence[Any], size: int | None = None) -> Any:
    """Return one micro-batch of documents, padded to `size` tokens as Fast-LLM pads."""
    from fast_llm.data.document.language_model import LanguageModelBatch

    return LanguageModelBatch.from_documents(documents, pad_to_size=size)


def get_preprocessing(model: Any, splits: int = 1) -> Any:
    """Return how Fast-LLM prepares a batch for training; pixels were normalized by the model's processor already."""
    from fast_llm.engine.distributed.config import PhaseType

    preprocessing = model.get_preprocessing_config(PhaseType.training, splits)
    if not preprocessing.use_image_patches:
        return preprocessing
    return preprocessing.from_dict(preprocessing, {("vision_encoder", "normalization"): None})


def list_masked_spans(counted: Sequence[int]) -> list[tuple[int, int]]:
    """List the spans of tokens whose prediction does not count; `counted[i]` is for token i + 1."""
    return [(index, index + 1) for index, count in enumerate(counted, start=1) if not count]
