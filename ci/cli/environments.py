"""The verbs of the subjects' environments: `env build`, `ls`, `verify`, `prune`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path  # noqa: TC003 -- typer reads it from the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from ci.cli import options
from ci.cli.help import HelpfulGroup
from ci.errors import HubTestsError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.environments.base import BaseEnvironment
    from ci.environments.description import EnvironmentDescription

env_app = typer.Typer(
    cls=HelpfulGroup, help="Build and keep the environments that subjects run in.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="fast_llm, reference or a TOML file", metavar="ENVIRONMENT")]


@env_app.command("build")
def build(
    call: typer.Context,
    name: Name,
    python: Annotated[str | None, typer.Option(help="interpreter; default: one that the description allows")] = None,
    newest: Annotated[
        Path | None, typer.Option(help="resolve the newest allowed versions, write them to this file and build that")
    ] = None,
    optional: Annotated[bool, typer.Option(help="where it cannot be built, say so and succeed")] = False,
    as_json: options.JsonFlag = False,
) -> None:
    """Build a base environment, or find the one that is there; print its interpreter."""
    from ci.environments.base import find_base
    from ci.environments.description import load_description
    from ci.environments.prepare import provide_base
    from ci.environments.prerequisites import check_prerequisites

    description = load_description(name)
    python = _find_named_python(python, options.environ(call))
    roots = options.settings(call).environment_roots
    try:
        if newest:
            description = _write_newest(description, newest, options.environ(call))
        there = next(filter(None, (find_base(root, description) for root in roots)), None)
        if python and not there and os.sep in python and not os.access(python, os.X_OK):
            raise RequestError(
                f"--python {python}: not an executable file; expected an interpreter, like ENV/bin/python"
            )
        check_prerequisites(description, roots, options.environ(call), _tell, python=python)
        base = provide_base(description, options.settings(call), options.environ(call), _tell, python=python)
        if python and there:
            _tell(f"it was there already, with Python {base.manifest.python_version}: --python changed nothing")
    except HubTestsError as problem:
        if not optional:
            raise
        _tell(f"environment '{description.name}' is not built, what needs it will not run: {problem}")
        return
    options.answer(base.manifest, str(base.python), as_json=as_json)


def _find_named_python(python: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the path of the interpreter that was named. Raises RequestError for a name that is not on the path."""
    if not python or os.sep in python:
        return python
    if found := shutil.which(python, path=environ.get("PATH")):
        return found
    raise RequestError(f"--python {python}: no such program; expected an interpreter, like /usr/bin/python3.12")


def _write_newest(
    description: EnvironmentDescription, file: Path, environ: Mapping[str, str]
) -> EnvironmentDescription:
    """Resolve the newest versions of a description, and write them. Raises RequestError where it cannot be written."""
    from ci.environments.installer import find_installer
    from ci.environments.newest import format_description, resolve_newest

    newest = resolve_newest(description, find_installer(environ))
    options.write_file(file, format_description(newest), "--newest")
    return newest


@env_app.command("ls")
def ls(call: typer.Context, as_json: options.JsonFlag = False) -> None:
    """List the base environments on this machine."""
    from ci.environments.base import list_bases, list_incomplete

    roots = options.settings(call).environment_roots
    bases = [base for root in roots for base in list_bases(root)]
    _show(bases, as_json=as_json)
    incomplete = [one for root in roots for one in list_incomplete(root)]
    for one in incomplete:
        _tell(str(one))
    if not bases and not incomplete:
        _tell(f"no environments in {', '.join(map(str, roots))}; hub-tests env build makes one")


@env_app.command("verify")
def verify(call: typer.Context, as_json: options.JsonFlag = False) -> None:
    """Hash every file of every base environment; exit with 3 where one was changed."""
    from ci.environments.base import list_bases, list_incomplete, verify_base
    from ci.errors import InfrastructureError

    roots = options.settings(call).environment_roots
    problems = {base.path: verify_base(base) for root in roots for base in list_bases(root)}
    for one in (one for root in roots for one in list_incomplete(root)):
        if one.damage:
            problems[one.path] = (one.damage,)
        else:
            _tell(str(one))
    changed = {path: found for path, found in problems.items() if found}
    if as_json:
        print(json.dumps([{"path": str(path), "problems": found} for path, found in problems.items()], indent=2))
    else:
        for path, found in changed.items():
            print(f"{path}: changed in {len(found)} places: {found[0]}", flush=True)
    if changed:
        raise InfrastructureError(
            f"{next(iter(changed))}: was changed after it was built; remove it and build it again"
        )
    _tell(f"{len(problems)} in {', '.join(map(str, roots))}: each file is as it was built")


@env_app.command("prune")
def prune(
    call: typer.Context,
    days: Annotated[float, typer.Option(min=0, help="remove what no run has used for so many days")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be removed")] = False,
    as_json: options.JsonFlag = False,
) -> None:
    """Remove base environments, and compiled code in $HUB_TESTS_COMPILE_CACHE, that were not used for some time."""
    from ci.environments.base import prune_bases, prune_incomplete
    from ci.subjects.compile_layers import prune_layers

    settings, seconds = options.settings(call), days * 86400
    removed = prune_bases(settings.environments_root, older_than=seconds, keep=frozenset(), dry_run=dry_run)
    parts = prune_incomplete(settings.environments_root, older_than=seconds, dry_run=dry_run)
    _show(removed, as_json=as_json)
    for part in parts:
        print(f"{part}  not complete", file=sys.stderr if as_json else sys.stdout)
    count = len(removed) + len(parts)
    _tell(f"{'would remove' if dry_run else 'removed'} {count} from {settings.environments_root}")
    for layer in (
        prune_layers(settings.compile_cache, older_than=seconds, dry_run=dry_run) if settings.compile_cache else ()
    ):
        print(
            f"{layer.path}  {layer.size / 2**20:.1f} MiB of compiled code", file=sys.stderr if as_json else sys.stdout
        )


def _tell(line: str) -> None:
    print(f"hub-tests: {line}", file=sys.stderr, flush=True)


def _show(bases: Sequence[BaseEnvironment], *, as_json: bool) -> None:
    if as_json:
        from ci.records import to_json

        print(to_json([base.manifest for base in bases], indent=2))
        return
    for base in bases:
        torch = base.manifest.packages.get("torch", "")
        print(f"{base.path}  Python {base.manifest.python_version}{f'  torch {torch}' if torch else ''}")
