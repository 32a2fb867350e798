"""The command line `hub-runner`: one verb, one function; the only reader of os.environ."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ci.errors import HubTestsError
from hub_runner.config import Config, load
from hub_runner.layout import Layout
from hub_runner.state import Book

USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""ClickException, whether typer brings its own click or imports the package: both have it there."""

app = typer.Typer(name="hub-runner", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
SlotNumber = Annotated[int, typer.Option("--slot", help="the slot's number")]
Slots = Annotated[list[int] | None, typer.Argument(help="slot numbers; none means all")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


@dataclass(frozen=True)
class Place:
    """Where this host's files are, and its config once somebody asks for it."""

    layout: Layout
    source: Path

    @property
    def config(self) -> Config:
        """The config file, read and checked."""
        return load(self.source)

    def books(self, slots: list[int] | None = None) -> list[Book]:
        """The pages of the slots asked for."""
        wanted = range(len(self.config.slots)) if not slots else [self.config.slot(index).index for index in slots]
        return [Book(self.layout.state, index) for index in wanted]


@app.callback()
def main_options(
    context: typer.Context,
    root: Annotated[Path, typer.Option(help="the host's root directory; another one for a dry run")] = Path("/"),
    config: Annotated[Path | None, typer.Option(help="the TOML file; default /etc/hub-runner/hub-runner.toml")] = None,
) -> None:
    """Single-use GitHub runners on a GPU host, healthy before they are offered."""
    layout = Layout(root.absolute())
    context.obj = Place(layout, config or layout.config)


@app.command()
def render(context: typer.Context, out: Annotated[Path, typer.Option(help="a directory")]) -> None:
    """Write everything that follows from the config into a directory: units, firewall, labels, Kubernetes values."""
    from hub_runner.render import all_files
    from hub_runner.state import write_atomically

    for path, file in all_files(context.obj.config).items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / path, file.text, file.mode)
        print(out / path)


@app.command()
def check(context: typer.Context) -> None:
    """Does what is installed match the config? Exit code 2 where it drifted."""
    from hub_runner.install import drift

    found = drift(context.obj.config, context.obj.layout)
    for each in found:
        print(f"{each.path}: {each.what}")
    if found:
        raise typer.Exit(2)


@app.command()
def install(context: typer.Context, dry_run: DryRun = False) -> None:
    """Install or update everything on this host; with --root DIR, into that directory alone."""
    from hub_runner.install import commands, execute, preflight, require, steps, write

    place: Place = context.obj
    config = place.config
    if dry_run:
        for sentence, command in steps(config, place.source, place.layout):
            print(sentence + (f": {' '.join(command)}" if command else ""))
        return
    if place.layout.root == Path("/"):
        require(preflight(config))
    write(config, place.source, place.layout)
    for sentence, command in commands(place.layout):
        print(f"{sentence}: {' '.join(command)}")
        execute(command)


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Each slot: what it does, since when, and why it is not offered. Exit code 3 while one is in quarantine."""
    from hub_runner.report import status as tell

    rows = tell(context.obj.config, context.obj.books())
    print(json.dumps(rows, indent=2)) if as_json else _table(rows)
    if any(row["phase"] == "quarantined" for row in rows):
        raise typer.Exit(3)


def _table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = ("slot", "gpus", "phase", "since", "drained", "jobs", "runner_name", "reason")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    Console().print(table)


@app.command()
def drain(
    context: typer.Context,
    slots: Slots = None,
    wait: Annotated[bool, typer.Option("--wait", help="return when they are empty")] = False,
    reason: Annotated[str, typer.Option(help="for those who ask")] = "maintenance",
) -> None:
    """Take no new job: idle runners go at once, running jobs end first."""
    books = context.obj.books(slots)
    for book in books:
        book.drain(reason)
    while wait and any(book.read().phase not in ("free", "quarantined") for book in books):
        time.sleep(2)


@app.command()
def resume(context: typer.Context, slots: Slots = None) -> None:
    """Take jobs again; a slot in quarantine is examined at once."""
    for book in context.obj.books(slots):
        book.resume()


@app.command()
def update(context: typer.Context) -> None:
    """Fetch GitHub's newest runner, checked against its published digest."""
    from hub_runner.update import update as fetch

    print(fetch(context.obj.layout.runners, context.obj.config.host.arch))


@app.command()
def janitor(context: typer.Context, dry_run: DryRun = False) -> None:
    """Keep the host's directories within their budgets, away from running jobs."""
    from hub_runner.janitor import plan, prune_store, remove

    config, layout = context.obj.config, context.obj.layout
    for removal in plan(config, layout, now=time.time()):
        print(f"{'would remove' if dry_run else 'remove'} {removal.path} ({removal.size >> 20} MiB): {removal.why}")
        if not dry_run:
            remove(removal)
    print(prune_store(config, layout, dry_run=dry_run))


@app.command()
def doctor(context: typer.Context, slot: SlotNumber, as_json: AsJson = False) -> None:
    """Is the slot fit for a job? What the supervisor asks before each one."""
    from ci.records import to_json
    from hub_runner.examine import diagnose_slot
    from hub_runner.mint import MintClient

    config, layout = context.obj.config, context.obj.layout
    diagnosis = diagnose_slot(config, config.slot(slot), layout, MintClient(layout.socket))
    if as_json:
        print(to_json(diagnosis))
    else:
        from rich.console import Console

        from ci.doctor.table import render_diagnosis

        Console().print(render_diagnosis(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


@app.command()
def leftovers(context: typer.Context, slot: SlotNumber) -> None:
    """What the slot's last job left behind, as a JSON list."""
    from hub_runner.examine import leftovers as look

    config = context.obj.config
    print(json.dumps(look(config, config.slot(slot), context.obj.layout)))


@app.command(hidden=True)
def make_disk(context: typer.Context, slot: Annotated[int, typer.Argument()]) -> None:
    """Called by systemd before a slot's job."""
    from hub_runner.disk import make

    make(context.obj.config, context.obj.config.slot(slot), context.obj.layout)


@app.command(hidden=True)
def save_logs(context: typer.Context, slot: Annotated[int, typer.Argument()]) -> None:
    """Called by systemd after a slot's job."""
    from hub_runner.disk import save_logs as save

    layout, index = context.obj.layout, context.obj.config.slot(slot).index
    print(f"kept {save(layout.disk(index), layout.logs / f'slot-{index}')} logs")


@app.command(hidden=True)
def mint(context: typer.Context) -> None:
    """Called by systemd for each connection: one question on stdin, one answer on stdout."""
    from hub_runner.mint import MOST, Minter

    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    key = Path(credentials, "app-key") if credentials else context.obj.layout.key
    print(Minter(context.obj.config, key).serve(sys.stdin.readline(MOST)), flush=True)


@app.command(hidden=True)
def supervise(context: typer.Context) -> None:
    """The service."""
    from hub_runner.mint import MintClient
    from hub_runner.supervisor import Supervisor
    from hub_runner.systemd import SystemdHost

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    config, layout = context.obj.config, context.obj.layout
    supervisor = Supervisor(
        config,
        layout,
        host=SystemdHost(layout),
        mint=MintClient(layout.socket),
        notify=os.environ.get("NOTIFY_SOCKET"),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    supervisor.run()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; an expected failure is one line on stderr and its exit code, as in `hub-tests`."""
    try:
        code = app(args=argv, standalone_mode=False)
    except HubTestsError as failure:
        print(f"hub-runner: {failure}", file=sys.stderr)
        return failure.exit_code
    except PermissionError as failure:
        print(f"hub-runner: {failure}: this needs root", file=sys.stderr)
        return 2
    except USAGE as usage:
        cast("Any", usage).show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
