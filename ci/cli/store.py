"""The verbs for the store of checkpoints: `fetch`, `cache ls`, `cache verify`, `cache prune`."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 -- typer reads it from the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from ci.cli import options
from ci.errors import HubTestsError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.hub.inventory import StoreEntry
    from ci.hub.store import Store
    from ci.models import HubModel

cache_app = typer.Typer(help="List, verify or prune the store of truncated checkpoints.", no_args_is_help=True)


def fetch(
    call: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="registry names, patterns, @groups, or Hub ids like org/name", metavar="MODEL…"),
    ] = None,
    layers: options.Layers = None,
    part: options.SliceOption = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of the Hub repository")] = None,
    planned: Annotated[
        bool, typer.Option("--planned", help="fetch the entries of $HUB_TESTS_PLAN, and write job outputs")
    ] = False,
    cache: options.CacheDir = None,
    registry: options.Registry = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Fetch truncated checkpoints of Hub models into the store."""
    from ci.checkpoints import fetch_checkpoints, format_checkpoints
    from ci.hub.slices import parse_slice
    from ci.run_options import parse_layers
    from ci.terminal import fetch_progress, make_checkpoints_table

    if bool(names) == planned:
        raise RequestError("name at least one MODEL to fetch, or use --planned (not both)")
    if planned:
        models = tuple(entry.model for entry in options.plan(call).entries)
    else:
        models = _with_revision(_select_fetchable(names or [], registry), revision)
    kept_layers, wanted = parse_layers(layers) if layers else None, parse_slice(part) if part else None
    with fetch_progress() as progress:
        results = fetch_checkpoints(
            models, options.settings(call, cache), layers=kept_layers, part=wanted, progress=progress
        )
    fetched = results.checkpoints
    if planned and (output := options.context(call).output_path):
        from ci.verbs.fetch import write_fetch_outputs

        root = options.settings(call, cache).cache
        write_fetch_outputs(options.plan(call), fetched, results.errors, store=root, output=output)
    if as_json:
        print(format_checkpoints(fetched))
    elif fetched:
        options.show(make_checkpoints_table(fetched))
        print(*(checkpoint.path for checkpoint in fetched.values()), sep="\n")
    _raise_gravest(results.errors)


@cache_app.command("ls")
def cache_ls(call: typer.Context, cache: options.CacheDir = None, as_json: options.JsonFlag = False) -> None:
    """List the stored checkpoints with their state."""
    store = _open_store(call, cache)
    _print_entries(store, store.list_entries(), as_json=as_json)


@cache_app.command("verify")
def cache_verify(call: typer.Context, cache: options.CacheDir = None, as_json: options.JsonFlag = False) -> None:
    """Compare every stored file with the hash in its manifest; exit with 3 if one differs."""
    store = _open_store(call, cache)
    entries = store.verify()
    _print_entries(store, entries, as_json=as_json)
    if damaged := [entry for entry in entries if entry.state == "damaged"]:
        from ci.errors import InfrastructureError

        raise InfrastructureError(
            f"{len(damaged)} damaged: {damaged[0].path}: {damaged[0].problems[0]}; rm -r it and fetch again"
        )


@cache_app.command("prune")
def cache_prune(
    call: typer.Context,
    max_size: Annotated[
        str, typer.Option(help="size to keep at most, like 50GB; 0 removes every checkpoint that is not in use")
    ] = "0",
    cache: options.CacheDir = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Remove stale partial fetches, then the least recently used entries above the size."""
    from ci.terminal import parse_size

    store = _open_store(call, cache)
    _print_entries(store, store.prune(parse_size(max_size)), as_json=as_json)


def _open_store(call: typer.Context, cache: Path | None) -> Store:
    from ci.hub.store import Store

    return Store(options.settings(call, cache).cache)


def _select_fetchable(names: list[str], registry: Path | None) -> tuple[HubModel, ...]:
    """Select registry entries; a Hub id becomes an entry of its own."""
    from ci.models import REGISTRY, HubModel, load_models, select_models

    known = load_models(registry or REGISTRY)
    words = [name for name in names if "/" not in name]
    ids = tuple(HubModel(name=name, model_id=name, checkpoint_format="") for name in names if "/" in name)
    return (*(select_models(known, words) if words else ()), *ids)


def _with_revision(models: tuple[HubModel, ...], revision: str | None) -> tuple[HubModel, ...]:
    from dataclasses import replace

    return tuple(replace(model, revision=revision or model.revision) for model in models)


def _print_entries(store: Store, entries: Sequence[StoreEntry], *, as_json: bool) -> None:
    if as_json:
        from ci.records import to_json

        print(to_json(list(entries), indent=2))
        return
    if not entries:
        print(f"nothing is stored in {store.root}")
        return
    from ci.terminal import make_entries_table

    options.show(make_entries_table(entries))
    print(*(entry.path for entry in entries), sep="\n")


def _raise_gravest(errors: Mapping[str, HubTestsError]) -> None:
    """Print each error, and raise the gravest (infrastructure before request): it gives the exit code."""
    if not errors:
        return
    *others, last = sorted(errors.values(), key=lambda error: error.exit_code)
    for error in others:
        print(f"hub-tests: {error}", file=sys.stderr)
    raise last
