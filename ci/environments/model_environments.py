"""The subject's environment of each model: the one that its entry names for the subject, else that of the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.environments.description import load_description
from ci.environments.prepare import check_options, prepared_subject
from ci.environments.source import pin_address
from ci.errors import InfrastructureError, RequestError
from ci.model_options import ModelOptions, take_model_options
from ci.run_options import RunOptions
from ci.subjects.registry import choose_default_subject, find_offer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ci.models import HubModel
    from ci.settings import Settings


@dataclass(frozen=True)
class PreparedSubjects:
    """The subject, ready to be started: `options` for the whole run, `models` where their options differ."""

    options: RunOptions
    models: Mapping[str, ModelOptions]


def choose_environment(model: HubModel, options: RunOptions) -> str | None:
    """Return the environment of a model's subject, None where the run builds none.

    The entry's own one goes before that of the run, unless a prepared interpreter is named or the run's is for all.
    """
    if options.subject_python or options.only_environment:
        return options.environment
    python = Path(sys.executable) if options.environment else None
    subject = options.subject or choose_default_subject(python)
    return model.find_environment(find_offer(subject).name) or options.environment


def group_models(models: Sequence[HubModel], options: RunOptions) -> dict[str | None, tuple[HubModel, ...]]:
    """Group the models by the environment of their subject, in their order."""
    groups: dict[str | None, tuple[HubModel, ...]] = {}
    for model in models:
        environment = choose_environment(model, options)
        groups[environment] = (*groups.get(environment, ()), model)
    return groups


def check_environments(models: Sequence[HubModel], options: RunOptions) -> None:
    """Raise RequestError, which names the entry, for options that do not fit with an environment of the models."""
    for environment, group in group_models(models, options).items():
        try:
            check_options(replace(options, environment=environment))
        except RequestError as error:
            if environment == options.environment:
                raise
            raise RequestError(f"[{group[0].name}] environments: {error}") from None


@contextmanager
def prepared_subjects(
    models: Sequence[HubModel],
    options: RunOptions,
    settings: Settings,
    environ: Mapping[str, str],
    report: Path,
    progress: Callable[[str], None],
) -> Iterator[PreparedSubjects]:
    """Build each environment that the models name, and the subject's commit over each.

    With several, one that cannot be built is the machine's problem of its own models only; the first that can be built
    fixes the commit for the others. Raises InfrastructureError where none can be built.
    """
    groups = group_models(models, options)
    prepared: dict[str, RunOptions] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        for number, (environment, group) in enumerate(groups.items()):
            own = replace(_pin(options, next(iter(prepared.values()), None)), environment=environment)
            log = f"build-{_name(environment)}.log" if number else "build.log"
            names = [model.name for model in group]
            try:
                made = stack.enter_context(prepared_subject(own, settings, environ, report, progress, log=log))
            except InfrastructureError as problem:
                if len(groups) == 1:
                    raise
                progress(f"{', '.join(names)}: {problem}")
                failed |= dict.fromkeys(names, str(problem))
                continue
            prepared |= dict.fromkeys(names, made)
        if not prepared:
            raise InfrastructureError(next(iter(failed.values())))
        yield _collect(prepared, failed)


def _pin(options: RunOptions, first: RunOptions | None) -> RunOptions:
    """Return options with the commit that the first environment got, so that a branch does not move between two."""
    if first is None or options.subject_source is None:
        return options
    return replace(options, subject_source=pin_address(options.subject_source, first.subject_commit))


def _name(environment: str | None) -> str:
    return load_description(environment).name if environment else "prepared"


def _collect(prepared: Mapping[str, RunOptions], failed: Mapping[str, str]) -> PreparedSubjects:
    first = next(iter(prepared.values()))
    models = {name: take_model_options(made) for name, made in prepared.items()}
    models |= {name: ModelOptions(environment_failure=problem) for name, problem in failed.items()}
    several = len(set(models.values())) > 1
    return PreparedSubjects(first, models if several else {})
