"""The verbs for the store of checkpoints: `fetch`, `cache ls`, `cache verify`, `cache repair`, `cache prune`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.cli import options
from ci.cli.help import HelpfulGroup
from ci.errors import HubTestsError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ci.checkpoints import FetchResults
    from ci.hub.inventory import StoreEntry
    from ci.hub.store import Store
    from ci.models import HubModel

cache_app = typer.Typer(
    cls=HelpfulGroup, help="List, verify, repair or prune the store of truncated checkpoints.", no_args_is_help=True
)


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
    store_url: options.StoreUrl = None,
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
    settings = replace(options.settings(call, cache, store_url), uploads=True)
    with fetch_progress() as progress:
        results = fetch_checkpoints(models, settings, layers=kept_layers, part=wanted, progress=progress)
    fetched = results.checkpoints
    if planned:
        _hand_over(call, results, settings.cache)
    if as_json:
        print(format_checkpoints(fetched))
    elif fetched:
        options.show(make_checkpoints_table(fetched))
        print(*(checkpoint.path for checkpoint in fetched.values()), sep="\n")
    _raise_gravest(results.errors)


def _hand_over(call: typer.Context, results: FetchResults, root: Path) -> None:
    """Hold the checkpoints for the run's test jobs, and write the job outputs."""
    from ci.verbs.fetch import hold_for_run, write_fetch_outputs

    context = options.context(call)
    held = (*(Path(one.path) for one in results.checkpoints.values()), *(one.path for one in results.code.values()))
    hold_for_run(held, context.run_id, store=root)
    if context.output_path:
        plan, output = options.plan(call), context.output_path
        write_fetch_outputs(plan, results.checkpoints, results.errors, store=root, output=output, code=results.code)


PlaceOption = Annotated[
    str | None, typer.Option("--store-url", help="a remote store instead of the directory, like s3://bucket/folder")
]


@cache_app.command("ls")
def cache_ls(
    call: typer.Context, cache: options.CacheDir = None, place: PlaceOption = None, as_json: options.JsonFlag = False
) -> None:
    """List the stored checkpoints with their state."""
    if place:
        from ci.hub.remote_prune import list_remote_entries
        from ci.hub.remote_store import RemoteStore

        remote = RemoteStore(place)
        return _print_entries(remote.url, list_remote_entries(remote), as_json=as_json)
    store = _open_store(call, cache)
    return _print_entries(store.root, store.list_entries(), as_json=as_json)


@cache_app.command("verify")
def cache_verify(call: typer.Context, cache: options.CacheDir = None, as_json: options.JsonFlag = False) -> None:
    """Compare every stored file with the hash in its manifest; exit with 3 if one differs."""
    store = _open_store(call, cache)
    entries = store.verify()
    _print_entries(store.root, entries, as_json=as_json)
    if damaged := [entry for entry in entries if entry.state == "damaged"]:
        from ci.errors import InfrastructureError

        raise InfrastructureError(
            f"{len(damaged)} damaged: {damaged[0].path}: {damaged[0].problems[0]}; "
            "to fetch them again: hub-tests cache repair"
        )


@cache_app.command("repair")
def cache_repair(call: typer.Context, cache: options.CacheDir = None, as_json: options.JsonFlag = False) -> None:
    """Set damaged checkpoints aside and fetch them again; exit with 3 if one is left."""
    from ci.hub.repair import repair_store
    from ci.terminal import fetch_progress

    settings = options.settings(call, cache)
    with fetch_progress() as progress:
        repairs = repair_store(settings, progress=progress)
    if as_json:
        from ci.records import to_json

        print(to_json(list(repairs), indent=2))
    else:
        print(*(f"{one.state}: {one.model_id or one.path}: {one.detail}" for one in repairs), sep="\n")
        print(f"{sum(one.state == 'repaired' for one in repairs)} of {len(repairs)} damaged checkpoints fetched again")
    if failed := [one for one in repairs if one.state == "failed"]:
        from ci.errors import InfrastructureError

        raise InfrastructureError(f"{len(failed)} not repaired: {failed[0].path}: {failed[0].detail}")


@cache_app.command("prune")
def cache_prune(
    call: typer.Context,
    max_size: Annotated[
        str | None, typer.Option(help="size to keep at most, like 50GB; 0 removes every checkpoint not in use")
    ] = None,
    max_age: Annotated[str | None, typer.Option(help="remove what was not used for so long, like 14d or 12h")] = None,
    grace: Annotated[
        str, typer.Option(help="announce removals so long before, for readers with a read-only mount, like 24h")
    ] = "0s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would go, and why; change nothing")] = False,
    cache: options.CacheDir = None,
    place: PlaceOption = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Remove the least recently used checkpoints above a size or an age."""
    from ci.hub.prune import PruneRequest
    from ci.units import parse_duration, parse_size

    if max_size is None and max_age is None:
        raise RequestError("cache prune: say what may go: --max-size 50GB, --max-age 14d or both; --dry-run shows it")
    request = PruneRequest(
        None if max_size is None else parse_size(max_size),
        None if max_age is None else parse_duration(max_age),
        parse_duration(grace),
        dry_run,
    )
    if place:
        from ci.hub.remote_prune import prune_remote_store
        from ci.hub.remote_store import RemoteStore

        remote = RemoteStore(place)
        return _print_entries(remote.url, prune_remote_store(remote, request), as_json=as_json)
    store = _open_store(call, cache)
    return _print_entries(store.root, store.prune(request), as_json=as_json)


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
    return tuple(replace(model, revision=revision or model.revision) for model in models)


def _print_entries(place: Path | str, entries: Sequence[StoreEntry], *, as_json: bool) -> None:
    if as_json:
        from ci.records import to_json

        print(to_json(list(entries), indent=2))
        return
    if not entries:
        print(f"nothing is stored in {place}")
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
