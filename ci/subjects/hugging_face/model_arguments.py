"""What a transformers model is given beside its tokens: images, and the request for every prediction head."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ci.subjects.hugging_face.structure import find_prediction_blocks

if TYPE_CHECKING:
    import torch

    from ci.subjects.images import Images


def collect_arguments(model: Any, images: Images | None, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of a forward pass beside the tokens; pixels are in `dtype`."""
    arguments: dict[str, Any] = {} if images is None else images.to_arguments(dtype)
    if images is not None and "output_vision_hidden_states" in inspect.signature(model.forward).parameters:
        # apriel2's code joins the vision tower's hidden states of several images, and fails without them
        arguments |= {"output_vision_hidden_states": True, "output_hidden_states": True}
    if find_prediction_blocks(model):
        arguments["return_all_prediction_heads"] = True
    return arguments


def find_image_token(config: Any) -> int | None:
    """Return the id of an image patch's token, None where the config has none."""
    names = ("image_token_index", "image_token_id")
    return next((int(token) for name in names if (token := getattr(config, name, None)) is not None), None)
