"""`hub-tests plan --bytes`: a table of what each model of the registry would download, from headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.checkpoints import make_fetch_request
from ci.errors import OwnLimitError
from ci.hub.byte_plan import BytePlan, plan_bytes
from ci.hub.slices import parse_slice
from ci.models import REGISTRY, load_models, override_part, select_models
from ci.run_options import parse_layers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci.models import HubModel
    from ci.settings import Settings


def plan_registry_bytes(
    words: Sequence[str], registry: Path | None, settings: Settings, *, layers: str | None, part: str | None
) -> tuple[BytePlan, ...]:
    """Plan the fetch of each selected model, with its own layers and slice or with these.

    A model that hub-tests itself refuses is planned as that problem; the Hub is not asked about it.
    """
    wanted = parse_layers(layers) if layers else None, parse_slice(part) if part else None
    models = [override_part(model, *wanted) for model in select_models(load_models(registry or REGISTRY), words)]
    return tuple(plan for model in models for plan in _plan(model, settings))


def _plan(model: HubModel, settings: Settings) -> tuple[BytePlan, ...]:
    try:
        return plan_bytes([(model.name, make_fetch_request(model))], settings)
    except OwnLimitError as limit:
        return (BytePlan(model.name, model.model_id, str(model.slice), problem=str(limit)),)
