"""The suite as a process of its own: its command, its time limit, its progress, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.errors import RequestError, TerminatedError
from ci.github.output_relay import relay_output
from ci.judge_environment import LARGE_PAGES, make_suite_environment
from ci.report.result_files import JUNIT, RUNNING
from ci.report.run_files import record_suite_end, write_ended
from ci.run_arguments import make_pytest_arguments
from ci.suite.progress import ProgressEvent, follow_progress
from ci.terminal import STARTING, suite_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci.models import HubModel
    from ci.run_options import RunOptions

SECONDS_TO_WRITE = 60.0
"""Seconds that an interrupted suite has to write its results."""
STDERR = 2
TEMPORARY_ROOT = "PYTEST_DEBUG_TEMPROOT"
"""Names pytest's directory for temporary files: what others left in the machine's shared one must not fail a run."""

PYTEST_ENVIRONMENT = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    **LARGE_PAGES,
}
"""Installed plugins may reorder, retry or slow tests; the suite loads those that it needs. No bars of libraries."""
START_PYTEST = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ci.suite.main import main; main()"
"""Starts pytest in an isolated interpreter, with this very package before all others."""
PYTEST_PLUGINS = ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "xdist.plugin")
"""No cache directory beside an installed suite, and no five garbage collections in a process that is about to end."""


def find_suite() -> Path:
    """Return `tests/integration` of this checkout, or its copy in an installed distribution."""
    package = Path(__file__).parent
    for path in (package.parent / "tests" / "integration", package / "_suite"):
        if (path / "test_hub_integration.py").is_file():
            return path
    raise RequestError(f"the suite is not beside {package}: reinstall hub-tests, or run it from a checkout")


def run_suite(models: Sequence[HubModel], options: RunOptions, report: Path, environ: Mapping[str, str]) -> float:
    """Run the suite over `models`, write `report/junit.xml`, and return the seconds it took.

    The suite is a process of its own. However it ends, the report is made from the files that it left. Its own output,
    with what the subject says, goes to stderr, because stdout is for the answer.
    """
    started, cwd = time.monotonic(), find_suite().parent.parent
    with (
        tempfile.TemporaryDirectory(prefix="hub-tests-pytest.", ignore_cleanup_errors=True) as own,
        _shown_progress(options) as progress,
        relay_output(STDERR) as output,
        subprocess.Popen(  # noqa: S603  our own interpreter
            _pytest_command(models, options, report, progress),
            env={**make_suite_environment(environ), **PYTEST_ENVIRONMENT, TEMPORARY_ROOT: own},
            cwd=cwd,
            stdout=output,
            stderr=output,
            preexec_fn=_accept_interrupts,
        ) as suite,
        record_suite_end(report, suite),
    ):
        if _wait_for_suite(suite, options.time_limit):
            write_ended(report, f"time limit of {options.time_limit:.0f} s")
    return time.monotonic() - started


@contextmanager
def _shown_progress(options: RunOptions) -> Iterator[Path | None]:
    """Yield a file for the suite's progress, which is shown meanwhile; None where pytest itself prints each test."""
    if options.verbose:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hub-tests-progress.") as directory, suite_progress() as display:
        path = Path(directory, "events.jsonl")
        display.show(ProgressEvent("started", STARTING))
        with follow_progress(path, display):
            yield path


def _accept_interrupts() -> None:
    """Restore SIGINT in the suite's process: a background job starts with the signal ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for_suite(suite: subprocess.Popen[bytes], time_limit: float | None) -> bool:
    """Wait until the suite ends, and return whether it was interrupted after `time_limit` seconds.

    An interrupted suite still writes the results that it has.
    """
    for seconds, next_signal in (
        (time_limit, signal.SIGINT),
        (SECONDS_TO_WRITE, signal.SIGKILL),
        (None, signal.SIGKILL),
    ):
        try:
            suite.wait(seconds)
            return next_signal is not signal.SIGINT
        except subprocess.TimeoutExpired:
            suite.send_signal(next_signal)
        except KeyboardInterrupt as stop:
            if isinstance(stop, TerminatedError):
                suite.send_signal(signal.SIGINT)  # Ctrl-C in a terminal reaches the suite too, SIGTERM does not
            with contextlib.suppress(subprocess.TimeoutExpired):
                suite.wait(SECONDS_TO_WRITE)
            suite.kill()
            raise
    return True


def _choose_configuration(suite: Path) -> list[str]:
    """Name pytest's configuration: that of this checkout, else none.

    By itself pytest reads that of any project in whose directory hub-tests is installed: the subject's, perhaps.
    """
    root = suite.parent.parent
    own = root / "pyproject.toml"
    if suite.parent.name == "tests" and own.is_file():
        return ["-c", str(own)]
    return ["-c", os.devnull, f"--rootdir={root}", f"--confcutdir={suite}"]


def _pytest_command(models: Sequence[HubModel], options: RunOptions, report: Path, progress: Path | None) -> list[str]:
    return [
        *(sys.executable, "-I", "-c", START_PYTEST, str(Path(__file__).parents[1])),
        str(find_suite()),
        *_choose_configuration(find_suite()),
        "--run-extra-slow",
        "--tb=short",
        *PYTEST_PLUGINS,
        "-o",
        "junit_family=xunit1",  # the family that carries properties; an installed suite has no pyproject that sets it
        "-v" if options.verbose else "-q",
        f"--junitxml={report / JUNIT}",
        f"--running-file={report / RUNNING}",
        *([f"--progress-file={progress}", "-o", "console_output_style=classic", "-rN"] if progress else []),
        *(f"--hub-model={model.name}" for model in models),
        *(["-n", str(options.workers), "--dist", "loadgroup"] if options.workers else []),
        *make_pytest_arguments(options),
    ]
