"""The command line `hub-tests`: one function for each verb.

The verbs get the environment from here. Elsewhere only the code that runs in or starts a subject's process reads
os.environ (`ci/subjects/`), and the suite, which is a process of its own; a test holds the list.

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
from ci.cli import environments, local, store, subjects, workflow
from ci.errors import HubTestsError, RequestError, TerminatedError
from ci.github.actions import guard_output
from ci.judge_environment import restart_isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.mro() if kind.__name__ == "ClickException")
"""click's base class of usage errors. Some versions of typer bring their own click, so it is found by name."""

INTERRUPTED = 130
BUG = 70

app = typer.Typer(
    name="hub-tests",
    help="Test on real Hub models that a converter and its kernels compute what Hugging Face computes.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
ON_THIS_MACHINE: tuple[Callable[..., None], ...] = (local.models, store.fetch, local.run, local.doctor)
IN_A_WORKFLOW: tuple[Callable[..., None], ...] = (
    workflow.gate,
    workflow.start,
    workflow.plan,
    workflow.pack,
    workflow.admit,
    workflow.watch,
    workflow.report,
    workflow.publish,
    workflow.conclude,
)

for _verb_function in ON_THIS_MACHINE:
    app.command(rich_help_panel="On this machine")(_verb_function)
app.add_typer(store.cache_app, name="cache", rich_help_panel="On this machine")
app.add_typer(environments.env_app, name="env", rich_help_panel="On this machine")
app.add_typer(subjects.subject_app, name="subject", rich_help_panel="On this machine")
for _verb_function in IN_A_WORKFLOW:
    app.command(rich_help_panel="In a workflow")(_verb_function)


def _print_version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    del version


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; every expected failure is one line on stderr and its exit code."""
    if argv is None:
        restart_isolated(sys.argv[1:], os.environ)
    signal.signal(signal.SIGTERM, _raise_terminated)
    with guard_output(os.environ):
        return _run_verb(argv)


def _run_verb(argv: Sequence[str] | None) -> int:
    try:
        code = app(args=list(argv) if argv is not None else None, standalone_mode=False, obj=os.environ)
    except HubTestsError as error:
        print(f"hub-tests: {error}", file=sys.stderr)
        return error.exit_code
    except USAGE_ERROR as usage:
        cast("Any", usage).show()
        return RequestError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        print("hub-tests: this is a bug in hub-tests: please report it with the traceback above", file=sys.stderr)
        return BUG
    if code == INTERRUPTED:  # typer turns Ctrl-C into this exit code
        print("hub-tests: interrupted; what was fetched is kept and the next run continues from it", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _raise_terminated(*_: object) -> None:
    """Treat SIGTERM, which cancels a job, like Ctrl-C: results so far are written."""
    raise TerminatedError


if __name__ == "__main__":
    sys.exit(main())
