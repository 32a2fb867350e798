"""The command line `hub-runner`: one function for each verb. It passes on what it reads from the environment."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ci.errors import HubTestsError
from hub_runner.config_file import load_config
from hub_runner.layout import Layout
from hub_runner.slot_state import SlotStateFile

if TYPE_CHECKING:
    from hub_runner.config import Config

USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.mro() if base.__name__ == "ClickException")
"""typer exports no common base of its errors, and newer versions bring a click of their own."""

app = typer.Typer(name="hub-runner", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
SlotOption = Annotated[int, typer.Option("--slot", help="the slot's number, from 0")]
SlotArgument = Annotated[int, typer.Argument(help="the slot's number, from 0")]
SlotArguments = Annotated[list[int] | None, typer.Argument(help="the slots' numbers, from 0; all slots without any")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would be done, and do nothing")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@dataclass(frozen=True)
class HostContext:
    """The paths of this host, and its config, which is read when a verb needs it."""

    layout: Layout
    source: Path

    @property
    def config(self) -> Config:
        """The config file, read and checked."""
        return load_config(self.source)

    def state_files(self, slots: list[int] | None = None) -> list[SlotStateFile]:
        """Return the state files of the given slots; of all slots without any."""
        config = self.config
        indices = [config.get_slot(index).index for index in slots] if slots else range(len(config.slots))
        return [SlotStateFile(self.layout.state, index) for index in indices]


@app.callback()
def set_context(
    context: typer.Context,
    root: Annotated[Path, typer.Option(help="the host's root directory; choose another one to try things out")] = Path(
        "/"
    ),
    config: Annotated[
        Path | None, typer.Option(help="the host's TOML file; default /etc/hub-runner/hub-runner.toml")
    ] = None,
) -> None:
    """Run single-use GitHub runners on a GPU host, and examine the host before each job."""
    layout = Layout(root.absolute())
    context.obj = HostContext(layout, config or layout.config)


@app.command()
def render(
    context: typer.Context, out: Annotated[Path, typer.Option(help="the directory to write the files to")]
) -> None:
    """Write all rendered files into a directory: units, firewall, labels, Kubernetes values."""
    from hub_runner.files import write_atomically
    from hub_runner.render import render_all_files

    for path, file in render_all_files(context.obj.config).items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / path, file.text, file.mode)
        print(out / path)


@app.command()
def check(context: typer.Context) -> None:
    """Compare the installed files with the config; exit with 2 when they differ."""
    from hub_runner.install import find_drift

    drifts = find_drift(context.obj.config, context.obj.layout)
    for drift in drifts:
        print(f"{drift.path}: {drift.what}")
    if drifts:
        raise typer.Exit(2)


@app.command()
def install(context: typer.Context, dry_run: DryRun = False) -> None:
    """Install or update everything on this host; with --root DIR, only write to that directory."""
    from hub_runner.install import (
        find_install_problems,
        list_commands,
        list_retired_units,
        plan_steps,
        raise_problems,
        run_command,
        write_files,
    )

    host: HostContext = context.obj
    config = host.config
    if dry_run:
        for sentence, command in plan_steps(config, host.source, host.layout):
            print(sentence + (f": {' '.join(command)}" if command else ""))
        return
    if host.layout.root == Path("/"):
        raise_problems(find_install_problems(config))
    retired = list_retired_units(config, host.layout)
    write_files(config, host.source, host.layout)
    for sentence, command in list_commands(host.layout, retired):
        print(f"{sentence}: {' '.join(command)}")
        run_command(command)


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what each slot does and why; exit with 3 while one is in quarantine."""
    from hub_runner.slot_status import list_status

    rows = list_status(context.obj.config, context.obj.state_files())
    print(json.dumps(rows, indent=2)) if as_json else _print_table(rows)
    if any(row["phase"] == "quarantined" for row in rows):
        raise typer.Exit(3)


def _print_table(rows: list[dict[str, object]]) -> None:
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
    slots: SlotArguments = None,
    wait: Annotated[bool, typer.Option("--wait", help="return only once the slots are empty")] = False,
    reason: Annotated[str, typer.Option(help="why; kept beside the slot's state")] = "maintenance",
) -> None:
    """Take no new job: idle runners are removed at once, running jobs end first."""
    state_files = context.obj.state_files(slots)
    for state_file in state_files:
        state_file.drain(reason)
    while wait and any(state_file.read().phase not in ("free", "quarantined") for state_file in state_files):
        time.sleep(2)


@app.command()
def resume(context: typer.Context, slots: SlotArguments = None) -> None:
    """Take jobs again; slots in quarantine are examined at once."""
    for state_file in context.obj.state_files(slots):
        state_file.resume()


@app.command()
def update(context: typer.Context) -> None:
    """Download GitHub's newest runner and check it against its published digest."""
    from hub_runner.update import update_runner

    print(update_runner(context.obj.layout.runners, context.obj.config.host.arch))


@app.command()
def janitor(context: typer.Context, dry_run: DryRun = False) -> None:
    """Delete what is over budget in the host's directories; running jobs are not touched."""
    from hub_runner.janitor import delete, plan_removals, prune_store

    config, layout = context.obj.config, context.obj.layout
    for removal in plan_removals(config, layout, now=time.time()):
        print(f"{'would remove' if dry_run else 'remove'} {removal.path} ({removal.size >> 20} MiB): {removal.why}")
        if not dry_run:
            delete(removal)
    print(prune_store(config, layout, dry_run=dry_run))


@app.command()
def environments(context: typer.Context) -> None:
    """Build the subjects' environments that the config lists, and remove what it no longer lists."""
    from hub_runner.environments import refresh_environments

    for line in refresh_environments(context.obj.config, context.obj.layout, os.environ, print):
        print(line)


@app.command()
def doctor(context: typer.Context, slot: SlotOption, as_json: AsJson = False) -> None:
    """Examine whether a slot can run a job, as the supervisor does before each one."""
    from ci.records import to_json
    from hub_runner.registrar import RegistrarClient
    from hub_runner.slot_checks import diagnose_slot

    config, layout = context.obj.config, context.obj.layout
    diagnosis = diagnose_slot(config, config.get_slot(slot), layout, RegistrarClient(layout.socket))
    if as_json:
        print(to_json(diagnosis))
    else:
        from rich.console import Console

        from ci.doctor.table import render_diagnosis

        Console().print(render_diagnosis(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


@app.command()
def leftovers(context: typer.Context, slot: SlotOption) -> None:
    """Print what the slot's last job left behind, as a JSON list."""
    from hub_runner.slot_checks import find_leftovers

    config = context.obj.config
    print(json.dumps(find_leftovers(config, config.get_slot(slot), context.obj.layout)))


@app.command(name="make-disk", hidden=True)
def make_slot_disk(context: typer.Context, slot: SlotArgument) -> None:
    """Make the disk of a slot; systemd calls this before a job."""
    from hub_runner.disk import make_disk

    make_disk(context.obj.config, context.obj.config.get_slot(slot), context.obj.layout)


@app.command(name="save-logs", hidden=True)
def save_slot_logs(context: typer.Context, slot: SlotArgument) -> None:
    """Save the runner's logs of a slot; systemd calls this after a job."""
    from hub_runner.disk import save_logs

    layout, index = context.obj.layout, context.obj.config.get_slot(slot).index
    print(f"kept {save_logs(layout.disk(index), layout.logs / f'slot-{index}')} logs")


@app.command(hidden=True)
def registrar(context: typer.Context) -> None:
    """Answer one request on stdin; systemd calls this for each connection to the registrar's socket."""
    from hub_runner.registrar import MAX_LINE, RegistrarService

    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    key = Path(credentials, "app-key") if credentials else context.obj.layout.key
    print(RegistrarService(context.obj.config, key).serve(sys.stdin.readline(MAX_LINE)), flush=True)


@app.command(hidden=True)
def supervise(context: typer.Context) -> None:
    """Run the supervisor service until it is stopped."""
    from hub_runner.registrar import RegistrarClient
    from hub_runner.supervisor import Supervisor
    from hub_runner.systemd import SystemdHost

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    config, layout = context.obj.config, context.obj.layout
    supervisor = Supervisor(
        config,
        layout,
        host=SystemdHost(layout),
        registrar=RegistrarClient(layout.socket),
        notify=os.environ.get("NOTIFY_SOCKET"),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    supervisor.run()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; print an expected failure as one line and return its exit code."""
    try:
        code = app(args=argv, standalone_mode=False)
    except HubTestsError as failure:
        print(f"hub-runner: {failure}", file=sys.stderr)
        return failure.exit_code
    except PermissionError as failure:
        print(f"hub-runner: {failure}: run it as root", file=sys.stderr)
        return 2
    except USAGE_ERROR as mistake:
        cast("Any", mistake).show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
