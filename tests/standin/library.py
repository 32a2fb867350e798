"""Every model of the stand-in, put on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.standin.models import repository
from tests.standin.recipes import RECIPES
from tests.standin.trained import ALIAS, MODEL_ID, prepare_smollm2

if TYPE_CHECKING:
    from tests.standin.server import HubServer

TOKEN = "hf_standin"
"""Opens the gated models."""


def add_generated(hub: HubServer) -> None:
    """Add small models of each architecture and option; `TOKEN` opens the gated ones."""
    for recipe in RECIPES.values():
        hub.add(recipe.model_id, repository(recipe.model_id), gated=recipe.gated)
    hub.grant(TOKEN, *(recipe.model_id for recipe in RECIPES.values() if recipe.gated))


def add_trained(hub: HubServer) -> None:
    """Add the trained SmolLM2: the instruct model, also under the base model's id."""
    directory = prepare_smollm2()
    hub.add(MODEL_ID, directory)
    hub.add(ALIAS, directory)


ALIAS_NOTE = f"{ALIAS} is an alias of {MODEL_ID} here: the trained instruct weights"
