"""The verbs of the store: `fetch`, and `cache ls`, `verify`, `prune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 -- typer reads it from the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from ci.cli import options
from ci.errors import HubTestsError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.hub.inventory import StoreEntry
    from ci.hub.store import Store
    from ci.models import HubModel

cache_app = typer.Typer(help="The store of truncated checkpoints.", no_args_is_help=True)


def fetch(
    call: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="registry names, globs, @groups, or Hub ids org/name", metavar="MODEL…")
    ] = None,
    layers: options.Layers = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    planned: Annotated[bool, typer.Option("--planned", help="the entries of $HUB_TESTS_PLAN, and outputs")] = False,
    cache: options.CacheDir = None,
    registry: options.Registry = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Truncated checkpoints of Hub models into the store."""
    from ci.run import checkpoint_rows, fetch_all
    from ci.suite_options import layers_option
    from ci.terminal import checkpoints_table, fetch_progress

    if bool(names) == planned:
        raise RequestError("name at least one MODEL to fetch, or use --planned (not both)")
    if planned:
        chosen = tuple(entry.model for entry in options.plan(call).entries)
    else:
        chosen = _with_revision(_fetchable(names or [], registry), revision)
    wanted = layers_option(layers) if layers else None
    with fetch_progress() as progress:
        had, failed = fetch_all(chosen, options.settings(call, cache), layers=wanted, progress=progress)
    if planned and (output := options.context(call).output_path):
        from ci.verbs.fetch import write_fetch_outputs

        write_fetch_outputs(options.plan(call), had, failed, store=options.settings(call, cache).cache, output=output)
    if as_json:
        print(json.dumps(checkpoint_rows(had), indent=2))
    elif had:
        options.show(checkpoints_table(had))
        print(*(checkpoint.path for checkpoint in had.values()), sep="\n")
    _raise_worst(failed)


@cache_app.command("ls")
def cache_ls(call: typer.Context, cache: options.CacheDir = None, as_json: options.JsonFlag = False) -> None:
    """What the store holds, and in which state."""
    store = _store(call, cache)
    _entries(store, store.list_entries(), as_json=as_json)


@cache_app.command("verify")
def cache_verify(call: typer.Context, cache: options.CacheDir = None, as_json: options.JsonFlag = False) -> None:
    """Hashes every stored file against its manifest; a damaged entry is exit code 3."""
    store = _store(call, cache)
    entries = store.verify()
    _entries(store, entries, as_json=as_json)
    if damaged := [entry for entry in entries if entry.state == "damaged"]:
        from ci.errors import InfrastructureError

        raise InfrastructureError(
            f"{len(damaged)} damaged: {damaged[0].path}: {damaged[0].problems[0]}; rm -r it and fetch again"
        )


@cache_app.command("prune")
def cache_prune(
    call: typer.Context,
    max_size: Annotated[
        str, typer.Option(help="keep at most this much, like 50GB; 0 removes all that is not in use")
    ] = "0",
    cache: options.CacheDir = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Removes stale partial fetches, then the least recently used entries above the size."""
    from ci.terminal import parse_size

    store = _store(call, cache)
    _entries(store, store.prune(parse_size(max_size)), as_json=as_json)


def _store(call: typer.Context, cache: Path | None) -> Store:
    from ci.hub.store import Store

    return Store(options.settings(call, cache).cache)


def _fetchable(names: list[str], registry: Path | None) -> tuple[HubModel, ...]:
    """Registry entries, and Hub ids as entries of their own."""
    from ci.models import REGISTRY, HubModel, load_models, select

    known = load_models(registry or REGISTRY)
    words = [name for name in names if "/" not in name]
    ids = tuple(HubModel(name=name, model_id=name, checkpoint_format="") for name in names if "/" in name)
    return (*(select(known, words) if words else ()), *ids)


def _with_revision(chosen: tuple[HubModel, ...], revision: str | None) -> tuple[HubModel, ...]:
    from dataclasses import replace

    return tuple(replace(model, revision=revision or model.revision) for model in chosen)


def _entries(store: Store, entries: Sequence[StoreEntry], *, as_json: bool) -> None:
    if as_json:
        from ci.records import to_json

        print(to_json(list(entries), indent=2))
        return
    if not entries:
        print(f"nothing is stored in {store.root}")
        return
    from ci.terminal import entries_table

    options.show(entries_table(entries))
    print(*(entry.path for entry in entries), sep="\n")


def _raise_worst(failed: dict[str, HubTestsError]) -> None:
    """Say each failure; the process's answer is that of the gravest (infrastructure before request)."""
    if not failed:
        return
    *others, last = sorted(failed.values(), key=lambda error: error.exit_code)
    for error in others:
        print(f"hub-tests: {error}", file=sys.stderr)
    raise last
