"""From the options of a run to a subject that can be started: base environment, source, overlay."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ci.environments.base import BaseEnvironment, build_base, find_base, find_base_of, mark_used, use_base
from ci.environments.description import EnvironmentDescription, load_description, shipped_descriptions
from ci.environments.image import choose_installer
from ci.environments.overlay import build_overlay, read_tail
from ci.environments.prerequisites import check_prerequisites
from ci.environments.source import SubjectSource, fetch_source, is_git_address, split_address
from ci.errors import InfrastructureError, RequestError, SubjectError
from ci.subjects.described import find_checkout_file
from ci.subjects.exchange import hostile_directory
from ci.subjects.provenance import read_commit
from ci.subjects.registry import find_adapter, find_offer
from ci.subjects.sandbox import choose_isolation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ci.run_options import RunOptions
    from ci.settings import Settings

PREPARED = EnvironmentDescription(name="prepared", python="", requirements=())
"""An interpreter that somebody else prepared, for a subject without a description of ours."""


@contextmanager
def prepared_subject(
    options: RunOptions,
    settings: Settings,
    environ: Mapping[str, str],
    report: Path,
    progress: Callable[[str], None],
    *,
    log: str = "build.log",
) -> Iterator[RunOptions]:
    """Build what the options name, and yield options that name the result; it is removed afterwards.

    `log` is the file among the report's logs that keeps the output of the subject's build.
    A subject whose own build fails is no error here: the suite's tests say so. Raises RequestError for options that
    do not fit together, InfrastructureError where the environment cannot be built or the source not be fetched.
    """
    check_options(options)
    with (
        _used_base(options, settings, environ, progress) as (with_python, description),
        _overlaid(with_python, description, environ, report / "logs" / log, progress) as prepared,
    ):
        yield prepared


@contextmanager
def _used_base(
    options: RunOptions, settings: Settings, environ: Mapping[str, str], progress: Callable[[str], None]
) -> Iterator[tuple[RunOptions, EnvironmentDescription]]:
    """Yield options with an interpreter, and how a commit is installed over it; its environment stays meanwhile."""
    if not options.environment:
        base = find_base_of(options.subject_python) if options.subject_python else None
        with use_base(base) if base else nullcontext():
            yield options, _describe_prepared(options)
        return
    description = load_description(options.environment)
    clones = bool(options.subject_source and is_git_address(options.subject_source))
    check_prerequisites(description, settings.environment_roots, environ, progress, clones=clones)
    while True:
        base = provide_base(description, settings, environ, progress)
        with use_base(base) as held:
            if held:  # else it was removed meanwhile
                yield replace(options, subject_python=base.python), description
                return


@contextmanager
def _overlaid(
    options: RunOptions,
    description: EnvironmentDescription,
    environ: Mapping[str, str],
    log: Path,
    progress: Callable[[str], None],
) -> Iterator[RunOptions]:
    """Build the source that the options name over their interpreter, and yield options with its import path."""
    if description.environment:
        options = replace(options, subject_variables=json.dumps(dict(description.environment), sort_keys=True))
    if options.subject_source is None:
        yield options
        return
    with hostile_directory("hub-tests-subject.") as directory:
        directory.chmod(0o755)
        source = _find_source(options.subject_source, directory / "checkout", environ)
        progress(f"building the subject at {source.commit or source.path}")
        yield _install(options, description, source, directory, log)


def check_options(options: RunOptions) -> None:
    """Raise RequestError for options that do not fit together, or that name nothing."""
    if options.environment and options.subject_python:
        raise RequestError("--environment and --subject-python: name one of them, each brings an interpreter")
    if options.environment:
        load_description(options.environment)
    source = options.subject_source
    described = find_adapter(options.subject_or_default()).described
    if described and described.checkout_file and source is None and not options.subject_path:
        raise RequestError(
            f"the adapter is {described.checkout_file} of the subject's checkout: name the checkout (--subject-source)"
        )
    if source is None:
        return
    if not options.environment and not options.subject_python:
        raise RequestError("--subject-source needs --environment or --subject-python: what the subject runs in")
    if is_git_address(source):
        split_address(source)
    elif not Path(source).is_dir():
        raise RequestError(f"--subject-source {source}: not a directory; expected a checkout or an address")


def provide_base(
    description: EnvironmentDescription,
    settings: Settings,
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    *,
    python: str | None = None,
) -> BaseEnvironment:
    """Return a description's base environment; build it where it is missing.

    Raises InfrastructureError where there is none and none can be written.
    """
    found = (find_base(root, description) for root in settings.environment_roots)
    base = next((base for base in found if base), None)
    if base is None:
        root = settings.environments_root
        try:
            base = build_base(
                root, description, choose_installer(description, environ), python=python, progress=progress
            )
        except OSError as problem:
            what = f"{root}: environment '{description.name}' is not there, and cannot be built there"
            fix = f"build it where it is kept (hub-tests env build {description.name}), or name another directory"
            raise InfrastructureError(f"{what}: {problem.strerror or problem}; {fix}") from None
    mark_used(base)
    return base


def _describe_prepared(options: RunOptions) -> EnvironmentDescription:
    """Describe an interpreter that somebody else prepared: a commit is installed as over the subject's own."""
    subject = options.subject_or_default()
    return load_description(subject) if subject in shipped_descriptions() else PREPARED


def _find_source(source: str, target: Path, environ: Mapping[str, str]) -> SubjectSource:
    if is_git_address(source):
        return fetch_source(source, target, environ)
    path = Path(source).absolute()
    return SubjectSource(path, read_commit(path, environ))


def _install(
    options: RunOptions, description: EnvironmentDescription, source: SubjectSource, directory: Path, log: Path
) -> RunOptions:
    """Build the overlay; a subject that is a part of this package is imported from its checkout as it is."""
    options = replace(options, subject_commit=source.commit)
    python = options.subject_python
    assert python  # noqa: S101 (checked by the caller)
    if find_offer(options.subject_or_default()).in_this_package:
        return replace(options, subject_path=(*options.subject_path, source.path))
    isolation = choose_isolation(options.isolation)
    try:
        options = _copy_adapter(options, source, directory / "adapter")
        overlay = build_overlay(python, description, source.path, directory / log.stem, isolation)
    except SubjectError as failure:
        return replace(options, subject_failure=str(failure))
    finally:
        if (built := directory / f"{log.stem}.log").is_file():  # as the report calls it: errors name it
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(read_tail(built, 2**20))
    return replace(options, subject_path=(overlay.path, *options.subject_path))


def _copy_adapter(options: RunOptions, source: SubjectSource, folder: Path) -> RunOptions:
    """Copy the adapter's file, where it is one of the checkout, so that the sandbox sees it and nothing beside it."""
    described = find_adapter(options.subject_or_default()).described
    if described is None or described.checkout_file is None:
        return options
    file = find_checkout_file(described, source.path)
    folder.mkdir(mode=0o755)
    (folder / file.name).write_bytes(file.read_bytes())
    return replace(options, subject_path=(*options.subject_path, folder))
