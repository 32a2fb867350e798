"""Why a variant does not run for a model: the need that the subject, its offer or the model itself names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ci.errors import NotComparedError
from ci.evidence import HUGGING_FACE_NEED
from ci.subjects.offer import NO_ATTENTION, NO_EXPERTS
from ci.subjects.registry import find_offer

if TYPE_CHECKING:
    from ci.errors import UnsupportedError
    from ci.subjects.base import Variant
    from ci.suite.pipeline import ModelPipeline


def find_need(pipeline: ModelPipeline, axis: str, name: str, variant: Variant | None) -> str:
    """Return what is missing to run a variant: what the subject says of it, or why it does not list it; or ""."""
    if variant is not None:
        return variant.needs or ""
    config = json.loads((pipeline.find_source() / "config.json").read_bytes())
    conditional = pipeline.run.offer.conditional_needs.get(f"{axis}={name}", ())
    return _find_model_need(pipeline, config, axis) or next(iter(conditional), "")


def find_unmet_need(subject: str, variant: str, refusal: UnsupportedError) -> str:
    """Return which need of the subject's offer a refused layout names; empty where it names none.

    Only a need that the offer knows excuses a layout that did not run, or that Hugging Face's side does not run.
    """
    if isinstance(refusal, NotComparedError):
        return HUGGING_FACE_NEED
    needs = find_offer(subject).conditional_needs.get(variant, ())
    return next((need for need in needs if need in str(refusal)), "")


def _find_model_need(pipeline: ModelPipeline, config: dict[str, Any], axis: str) -> str:
    """Return what the model itself lacks to run any variant of an axis, by its config.json; "" for nothing."""
    from ci.equivalence import nested_config
    from ci.equivalence.inputs import read_requirements

    if axis == "attention":
        return NO_ATTENTION if nested_config.is_nested(config) and not nested_config.has_attention(config) else ""
    dense = pipeline.run.offer.dense_formats
    if axis != "moe" or pipeline.run.model.checkpoint_format not in dense or read_requirements(config).experts:
        return ""
    return NO_EXPERTS
