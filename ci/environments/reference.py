"""The environment of Hugging Face's side for a model that brings its own code: built by a run, found by the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.environments.base import find_base
from ci.environments.description import load_description
from ci.environments.prepare import provide_base
from ci.errors import InfrastructureError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ci.models import HubModel
    from ci.settings import Settings


def find_reference_python(model: HubModel, settings: Settings) -> Path:
    """Return the interpreter of an entry's `code_environment`. Raises RequestError where it was not built."""
    description = load_description(model.code_environment)
    for root in settings.environment_roots:
        if (base := find_base(root, description)) is not None:
            return base.python
    raise RequestError(
        f"[{model.name}] code_environment {model.code_environment}: not on this machine; "
        f"build it: hub-tests env build {model.code_environment}"
    )


def provide_reference_environments(
    models: Iterable[HubModel], settings: Settings, environ: Mapping[str, str], progress: Callable[[str], None]
) -> None:
    """Build every environment that the models' own code runs in, where it is missing.

    One that cannot be built ends a run of its models alone; among others their tests say what is missing.
    """
    named = [model.code_environment for model in models]
    for name in dict.fromkeys(filter(None, named)):
        try:
            provide_base(load_description(name), settings, environ, progress)
        except InfrastructureError as problem:
            if set(named) == {name}:
                raise
            progress(str(problem))
