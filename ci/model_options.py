"""What differs between the models of one run: the interpreter of the subject's environment, and what is built over it.

`hub-tests run` builds one environment for each that the models name, and writes a file for the suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ci.errors import InfrastructureError, RequestError
from ci.records import STRICT, read_json, to_json

if TYPE_CHECKING:
    from ci.run_options import RunOptions


@dataclass(frozen=True)
class ModelOptions:
    """The options of one model; they are named and meant as in `RunOptions`.

    `environment_failure` says why its environment is not here: nothing of the subject is to blame.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    subject_python: Path | None = None
    subject_path: tuple[Path, ...] = ()
    subject_variables: str | None = None
    subject_failure: str | None = None
    environment_failure: str | None = None


@dataclass(frozen=True)
class _File:
    models: Mapping[str, ModelOptions]


def take_model_options(options: RunOptions) -> ModelOptions:
    """Return what may differ between models, as the options of a prepared subject have it."""
    return ModelOptions(**{field.name: getattr(options, field.name) for field in fields(ModelOptions)})


def write_model_options(models: Mapping[str, ModelOptions], path: Path) -> None:
    """Write the options of each model for the suite."""
    path.write_text(to_json(_File(models)), encoding="utf-8")


def apply_model_options(options: RunOptions, name: str) -> RunOptions:
    """Return the options with which one model is tested. Raises for a file that cannot be read or lacks the model."""
    if options.model_options is None:
        return options
    try:
        text = options.model_options.read_bytes()
    except OSError as error:
        raise InfrastructureError(f"{options.model_options}: cannot be read: {error.strerror}") from None
    own = read_json(_File, text, what=str(options.model_options)).models.get(name)
    if own is None:
        raise RequestError(f"{options.model_options}: says nothing about '{name}': start the run again")
    return replace(options, **{field.name: getattr(own, field.name) for field in fields(ModelOptions)})
