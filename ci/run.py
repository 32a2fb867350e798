"""Run the main job on this machine: fetch the checkpoints, run the suite, write the report."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ci.checkpoints import CHECKPOINTS_JSON, FetchResults, fetch_checkpoints, read_checkpoints, write_checkpoints
from ci.devices import check_driver, choose_worker_count
from ci.doctor.identity import read_host_identity
from ci.environments.prepare import check_options, prepared_subject
from ci.environments.reference import provide_reference_environments
from ci.environments.source import pin_address
from ci.errors import GatedError, OwnLimitError, RequestError, TerminatedError
from ci.github.output_relay import relay_output
from ci.judge_environment import LARGE_PAGES, make_suite_environment
from ci.models import override_part
from ci.phases import PhaseTime
from ci.plan import Plan, RunRequest, make_plan
from ci.records import to_json
from ci.report.build_results import build_results
from ci.report.report_files import write_report
from ci.report.result_files import JUNIT, RUNNING, read_result_files
from ci.report.run_files import record_suite_end, write_ended, write_host
from ci.report_folder import own_report_folder
from ci.run_heading import check_default_subject, format_heading
from ci.run_options import RunOptions, make_pytest_arguments, make_reproduction_arguments
from ci.subjects.compile_cache import choose_compile_cache
from ci.subjects.registry import is_importable, shares_interpreter
from ci.subjects.sandbox import choose_isolation
from ci.suite.progress import ProgressEvent, follow_progress
from ci.terminal import STARTING, suite_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ci.hub.progress import Progress
    from ci.models import HubModel
    from ci.report.results import Results
    from ci.settings import Settings

FetchProgress: TypeAlias = "Callable[[], AbstractContextManager[Callable[[str, Progress], None] | None]]"
"""Opens what shows the progress of a fetch, for as long as that takes."""

SECONDS_TO_WRITE = 60.0
"""Seconds that an interrupted suite has to write its results."""

STDERR = 2
SUITE_NEEDS = ("accelerate", "numpy", "pytest", "safetensors", "torch", "transformers", "xdist", "yaml")
"""What the suite imports beyond the base dependencies."""

PYTEST_ENVIRONMENT = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    **LARGE_PAGES,
}
"""Installed plugins may reorder, retry or slow tests; the suite loads those that it needs. No bars of libraries."""

START_PYTEST = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ci.suite.main import main; main()"
"""Starts pytest in an isolated interpreter, with this very package before all others."""

_REPORTED = (GatedError, OwnLimitError)
"""Wrong requests of a kind that the report explains."""

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
        _shown_progress(options) as progress,
        relay_output(STDERR) as output,
        subprocess.Popen(  # noqa: S603  our own interpreter
            _pytest_command(models, options, report, progress),
            env={**make_suite_environment(environ), **PYTEST_ENVIRONMENT},
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


def run(
    models: Sequence[HubModel],
    options: RunOptions,
    settings: Settings,
    *,
    report: Path,
    environ: Mapping[str, str],
    progress: FetchProgress = nullcontext,
) -> Results:
    """Fetch the checkpoints, run the suite, write the report, and return the results.

    A model that cannot be fetched is a failed test of the suite, and the run goes on. Raises RequestError before any
    test if the suite's libraries or the subject are missing, if `--checkpoints` cannot be read, if the report cannot
    be written, or if every model was requested wrongly.
    """
    _check_suite()
    check_default_subject(options, environ, Path.cwd())
    choose_isolation(options.isolation)
    check_options(options)
    choose_compile_cache(options, settings)
    if options.environment is None:
        _check_subject(replace(options, subject=options.subject_or_default()))
    read_checkpoints(options.checkpoints)
    if options.checkpoints is None and options.device:
        check_driver(options.device, environ)  # before a fetch; after one, the suite's report says it
    if options.reference_python is None:
        provide_reference_environments(models, settings, environ, _say)
    with own_report_folder(report), _announced(options, settings, environ, report) as prepared:
        return _run_prepared(
            models, prepared, settings, asked=options, report=report, environ=environ, progress=progress
        )


@contextmanager
def _announced(
    options: RunOptions, settings: Settings, environ: Mapping[str, str], report: Path
) -> Iterator[RunOptions]:
    """Say in the first line what is tested, and yield options whose subject is built."""
    _say(format_heading(options))
    with prepared_subject(options, settings, environ, report, _say) as prepared:
        yield prepared


def _say(line: str) -> None:
    print(f"hub-tests: {line}", file=sys.stderr, flush=True)


def _run_prepared(
    models: Sequence[HubModel],
    options: RunOptions,
    settings: Settings,
    *,
    asked: RunOptions,
    report: Path,
    environ: Mapping[str, str],
    progress: FetchProgress,
) -> Results:
    """Run with a subject that can be started; the plan names what was `asked`, which can be run again."""
    options = replace(options, subject=options.subject_or_default(), subject_logs=report / "logs")
    _check_subject(options)
    _check_interpreter(options)
    outside: list[PhaseTime] = []
    if options.workers is None:
        options = replace(options, workers=choose_worker_count(len(models), options.device, environ))
    if options.checkpoints is None:
        started = time.monotonic()
        with progress() as show:
            results = fetch_checkpoints(models, settings, layers=options.layers, part=options.slice, progress=show)
        outside.append(PhaseTime("fetch", "", time.monotonic() - started))
        _check_requested_models(results)
        options = replace(options, checkpoints=report / CHECKPOINTS_JSON)
        write_checkpoints(results, report / CHECKPOINTS_JSON)
    write_host(report, read_host_identity())
    suite_seconds = 0.0
    try:
        suite_seconds = run_suite(models, options, report, environ)
    finally:  # also after an interruption: the report says what there is, and a missing result is red
        source = asked.subject_source and pin_address(asked.subject_source, options.subject_commit)
        plan = _write_plan(models, replace(asked, subject=options.subject, subject_source=source), report)
        fetched = read_checkpoints(options.checkpoints).checkpoints
        run_results = build_results(plan, read_result_files(report), fetched=fetched)
        run_results = replace(run_results, outside=(*outside, *_list_suite_rest(run_results, options, suite_seconds)))
        write_report(run_results, report)
    return run_results


def _list_suite_rest(results: Results, options: RunOptions, seconds: float) -> list[PhaseTime]:
    """Return the seconds of the suite that no test contains; tests in several workers overlap, so they say nothing."""
    rest = seconds - sum(case.seconds for entry in results.entries for case in entry.cases)
    return [PhaseTime("start", "suite", rest)] if rest > 0 and not options.workers else []


def _check_suite() -> None:
    """Raise RequestError if the extra `suite` is missing: no subject is to blame for that."""
    if missing := [name for name in SUITE_NEEDS if not find_spec(name)]:
        raise RequestError(f"run needs {', '.join(missing)}: install hub-tests with its extra, hub-tests[suite]")


def _check_subject(options: RunOptions) -> None:
    """Raise RequestError if the subject is not there: a wrong path says nothing about a model."""
    from ci.subjects.worker_process import find_program

    python = options.subject_python
    if python is None and options.subject_path:
        raise RequestError("--subject-path needs --subject-python: it adds to the import path of that interpreter")
    if python is None and options.subject and not is_importable(options.subject):
        raise RequestError(
            f"--subject {options.subject}: cannot be imported here; name an interpreter that has it: --subject-python"
        )
    if python is not None and not (python.is_file() and os.access(python, os.X_OK)):
        raise RequestError(
            f"--subject-python {python}: not an executable file; expected an interpreter, like ENV/bin/python"
        )
    for path in options.subject_path:
        if not path.is_dir():
            raise RequestError(f"--subject-path {path}: not a directory; expected the subject's checkout")
    find_program(options.subject_or_default(), options.subject_path)


def _check_interpreter(options: RunOptions) -> None:
    """Raise RequestError where a sandbox is required for a subject that hub-tests' own interpreter has installed."""
    subject = options.subject_or_default()
    if options.isolation == "required" and shares_interpreter(subject, options.subject_python):
        raise RequestError(
            f"--isolation required: {subject} is installed in hub-tests' own interpreter and can run code there; "
            "give it its own: --environment, or --subject-python"
        )


def _check_requested_models(results: FetchResults) -> None:
    """Raise RequestError if every model was requested wrongly.

    A gated model is no wrong request, and neither is one beyond a limit of hub-tests: they have a report.
    """
    errors = results.errors.values()
    wrong = [error for error in errors if isinstance(error, RequestError) and not isinstance(error, _REPORTED)]
    if not results.checkpoints and len(wrong) == len(errors):
        raise RequestError("; ".join(map(str, wrong)))


def _write_plan(models: Sequence[HubModel], options: RunOptions, report: Path) -> Plan:
    """Write the plan beside the results, so that `hub-tests report` can judge them again."""
    request = RunRequest(
        trigger="cli",
        models=tuple(model.name for model in models),
        subject=options.subject or "reference",
        layers=options.layers,
        slice=options.slice,
        deep=options.deep,
        device=options.device,
        consumer=options.consumer,
        options=tuple(make_reproduction_arguments(options, leave_out=[field.name for field in fields(RunRequest)])),
    )
    chosen = {model.name: override_part(model, options.layers, options.slice) for model in models}
    plan = make_plan(request, chosen)
    (report / "plan.json").write_text(to_json(plan, indent=2), encoding="utf-8")
    return plan
