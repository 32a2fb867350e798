"""The command line `hub-tests`: one verb, one function. `os.environ` is read here and handed to the verbs.

Exit codes: 0 all right, 1 a test failed, 2 the request or the configuration is wrong, 3 infrastructure,
130 interrupted, 70 a bug in hub-tests. Diagnostics go to stderr; stdout carries the answer only.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ci import __version__
from ci.cli import people, service, store
from ci.errors import HubTestsError, RequestError, TerminatedError
from ci.github.actions import guard_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""ClickException, whether typer brings its own click or imports the package: both have it there."""

INTERRUPTED = 130
BUG = 70

app = typer.Typer(
    name="hub-tests",
    help="Proves on real Hub models that a converter and its kernels compute what Hugging Face computes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ON_THIS_MACHINE: tuple[Callable[..., None], ...] = (people.models, store.fetch, people.run, people.doctor)
IN_A_WORKFLOW: tuple[Callable[..., None], ...] = (
    service.gate,
    service.start,
    service.plan,
    service.admit,
    service.watch,
    service.report,
    service.publish,
    service.conclude,
)

for _verb in ON_THIS_MACHINE:
    app.command(rich_help_panel="On this machine")(_verb)
app.add_typer(store.cache_app, name="cache", rich_help_panel="On this machine")
for _verb in IN_A_WORKFLOW:
    app.command(rich_help_panel="In a workflow")(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    del version


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; every expected failure is one line on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    with guard_output(os.environ):
        return _run_verb(argv)


def _run_verb(argv: Sequence[str] | None) -> int:
    try:
        code = app(args=list(argv) if argv is not None else None, standalone_mode=False, obj=os.environ)
    except HubTestsError as error:
        print(f"hub-tests: {error}", file=sys.stderr)
        return error.exit_code
    except USAGE as usage:
        cast("Any", usage).show()
        return RequestError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        print("hub-tests: this is a bug in hub-tests: please report it with the traceback above", file=sys.stderr)
        return BUG
    if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code by itself
        print("hub-tests: interrupted; what was fetched is kept and the next run continues from it", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _terminated(*_: object) -> None:
    """A cancelled job is an interrupted one: what runs is ended in order, and what there is gets written."""
    raise TerminatedError


if __name__ == "__main__":
    sys.exit(main())
