"""The main job on this machine: fetch, suite, summary."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ci.doctor.identity import read_host_identity
from ci.errors import GatedError, HubTestsError, RequestError, TerminatedError
from ci.github.actions import pause_commands
from ci.hub.fetch import Checkpoint, FetchRequest, fetch
from ci.plan import Plan, RunRequest, make_plan
from ci.records import to_dict, to_json
from ci.report.build_results import build_results
from ci.report.report_files import REPORT_HTML, REPORT_JSON, REPORT_MD, write_report
from ci.report.result_files import ENDED, EXIT_CODE, HOST, JUNIT, RUNNING, read_result_files
from ci.report.run_files import record_suite_end, write_ended, write_host
from ci.subjects.registry import SubjectName, choose_default_subject, is_importable
from ci.suite_options import default_device, read_checkpoints, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ci.hub.progress import Progress
    from ci.models import HubModel
    from ci.report.results import Results
    from ci.settings import Settings

GRACE = 60.0
"""Seconds that an interrupted suite has to write its results."""


STDERR = 2
SUITE_NEEDS = ("accelerate", "numpy", "pytest", "safetensors", "torch", "transformers", "xdist", "yaml")
"""What the suite imports beyond the base dependencies."""


@dataclass(frozen=True)
class RunOptions:
    """What `hub-tests run` was asked for; None means the suite's own default."""

    subject: SubjectName | None = None
    subject_python: Path | None = None
    subject_path: tuple[Path, ...] = ()
    device: Literal["cpu", "cuda"] | None = None
    layers: int | Literal["auto"] | None = None
    registry: Path | None = None
    checkpoints: Path | None = None
    timeout: float = 1800.0
    workers: int | None = None
    deep: bool = False
    verbose: bool = False
    time_limit: float | None = None


def suite_path() -> Path:
    """`tests/integration` of this checkout, or its copy inside an installed distribution."""
    package = Path(__file__).parent
    for path in (package.parent / "tests" / "integration", package / "_suite"):
        if (path / "test_hub_integration.py").is_file():
            return path
    raise RequestError(f"the suite is not beside {package}: reinstall hub-tests, or run it from a checkout")


def fetch_all(
    models: Sequence[HubModel],
    settings: Settings,
    *,
    layers: int | Literal["auto"] | None = None,
    progress: Callable[[str, Progress], None] | None = None,
) -> tuple[dict[str, Checkpoint], dict[str, HubTestsError]]:
    """Each model's checkpoint by name, and the error of each that could not be had."""
    had: dict[str, Checkpoint] = {}
    failed: dict[str, HubTestsError] = {}
    for model in models:
        request = FetchRequest(
            model.model_id, layers or model.num_layers_to_keep, model.revision, model.trust_remote_code
        )
        tick = None if progress is None else lambda state, name=model.name: progress(name, state)
        try:
            had[model.name] = fetch(request, settings, progress=tick)
        except HubTestsError as error:
            failed[model.name] = error
    return had, failed


def write_checkpoints(had: Mapping[str, Checkpoint], failed: Mapping[str, HubTestsError], path: Path) -> None:
    """What `--checkpoints` reads: each record with its registry name, and why a model could not be had."""
    lost = [{"name": name, "gated": isinstance(e, GatedError), "error": str(e)} for name, e in failed.items()]
    path.write_text(json.dumps([*checkpoint_rows(had), *lost], indent=2), encoding="utf-8")


def checkpoint_rows(checkpoints: Mapping[str, Checkpoint]) -> list[dict[str, Any]]:
    """Each record as plain values, with its registry name: what `fetch --json` prints."""
    return [{"name": name, **to_dict(checkpoint)} for name, checkpoint in checkpoints.items()]


ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Plugins that happen to be installed reorder, retry or slow tests; the suite brings the ones that it needs."""
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "xdist.plugin")
"""Without a cache beside an installed suite, and without five searches for garbage in a process about to end."""


def run_suite(models: Sequence[HubModel], options: RunOptions, report: Path, environ: Mapping[str, str]) -> float:
    """The suite over `models` into `report/junit.xml`; returns the seconds it took.

    The suite is its own process: whatever it does, the summary is written from what it left on disk. What it says
    itself goes to stderr, since stdout is the answer's.
    """
    started = time.monotonic()
    command, cwd = _pytest_command(models, options, report), suite_path().parent.parent
    with (
        pause_commands(environ, STDERR),  # the suite prints what the subject says
        subprocess.Popen(  # noqa: S603  our own interpreter
            command, env={**environ, **ALONE}, cwd=cwd, stdout=STDERR, preexec_fn=_interruptible
        ) as suite,
        record_suite_end(report, suite),
    ):
        if _wait(suite, options.time_limit):
            write_ended(report, f"time limit of {options.time_limit:.0f} s")
    return time.monotonic() - started


def _interruptible() -> None:
    """In the suite's process: hear SIGINT even where we were started with it ignored, as background jobs are."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(suite: subprocess.Popen[bytes], time_limit: float | None) -> bool:
    """Until the suite ends; after `time_limit` seconds it is interrupted, so that it still writes what it has.

    True where it was.
    """
    for patience, then in ((time_limit, signal.SIGINT), (GRACE, signal.SIGKILL), (None, signal.SIGKILL)):
        try:
            suite.wait(patience)
            return then is not signal.SIGINT
        except subprocess.TimeoutExpired:
            suite.send_signal(then)
        except KeyboardInterrupt as stop:
            if isinstance(stop, TerminatedError):
                suite.send_signal(signal.SIGINT)  # a terminal's Ctrl-C has reached the suite already, this has not
            with contextlib.suppress(subprocess.TimeoutExpired):
                suite.wait(GRACE)  # it writes what it has
            suite.kill()
            raise
    return True


def _pytest_command(models: Sequence[HubModel], options: RunOptions, report: Path) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "pytest",
        str(suite_path()),
        "--run-extra-slow",
        "--tb=short",
        *PLUGINS,
        "-o",
        "junit_family=xunit1",  # the family that carries properties; no pyproject says so beside an installed suite
    ]
    words += ["-v"] if options.verbose else ["-q"]
    words += [f"--junitxml={report / JUNIT}", f"--running-file={report / RUNNING}"]
    words += [f"--subject-logs={report / 'logs'}"]
    words += [f"--hub-model={model.name}" for model in models]
    words += ["-n", str(options.workers), "--dist", "loadgroup"] if options.workers else []
    chosen = {
        "--subject": options.subject,
        "--subject-python": options.subject_python,
        "--device": options.device,
        "--layers": options.layers,
        "--registry": options.registry,
        "--checkpoints": options.checkpoints,
        "--subject-timeout": options.timeout,
    }
    words += [f"{name}={value}" for name, value in chosen.items() if value is not None]
    words += [f"--subject-path={path}" for path in options.subject_path]
    return words + (["--deep"] if options.deep else [])


def run(
    models: Sequence[HubModel],
    options: RunOptions,
    settings: Settings,
    *,
    report: Path,
    environ: Mapping[str, str],
    progress: Callable[[str, Progress], None] | None = None,
) -> Results:
    """Fetch, suite, report. What cannot be fetched is the suite's first finding, not the end of the run.

    Raises RequestError, before any test, where the suite's libraries or the subject are not there, for pins that cannot
    be read, a report that cannot be written, and where no model can be had as it was asked for.
    """
    _check_suite()
    options = replace(options, subject=options.subject or choose_default_subject(options.subject_python))
    _check_subject(options)
    read_checkpoints(options.checkpoints)
    if options.workers is None:
        options = replace(options, workers=default_workers(models, options.device, environ))
    _make_room(report)
    if options.checkpoints is None:
        had, failed = fetch_all(models, settings, layers=options.layers, progress=progress)
        _check_asked(had, failed)
        options = replace(options, checkpoints=report / "checkpoints.json")
        write_checkpoints(had, failed, report / "checkpoints.json")
    write_host(report, read_host_identity())
    try:
        run_suite(models, options, report, environ)
    finally:  # interrupted or not, what there is gets told; what did not come back is red
        plan = _plan(models, options, report)
        results = build_results(plan, read_result_files(report), fetched=_read_fetched(options.checkpoints))
        write_report(results, report)
    return results


def _check_suite() -> None:
    """That the extra `suite` is installed: a bare installation must not look like a subject that fails."""
    if missing := [name for name in SUITE_NEEDS if not find_spec(name)]:
        raise RequestError(f"run needs {', '.join(missing)}: install hub-tests with its extra, hub-tests[suite]")


def _check_subject(options: RunOptions) -> None:
    """That whom to ask is there: a mistyped path says nothing about any model."""
    python = options.subject_python
    if python is None and options.subject_path:
        raise RequestError("--subject-path needs --subject-python: it is the import path of that interpreter")
    if python is None and options.subject and not is_importable(options.subject):
        raise RequestError(
            f"--subject {options.subject}: not importable here; name an interpreter that has it: --subject-python"
        )
    if python is not None and not (python.is_file() and os.access(python, os.X_OK)):
        raise RequestError(f"--subject-python {python}: no program; expected an interpreter, like ENV/bin/python")
    for path in options.subject_path:
        if not path.is_dir():
            raise RequestError(f"--subject-path {path}: no directory; expected the subject's checkout")


def _check_asked(had: Mapping[str, Checkpoint], failed: Mapping[str, HubTestsError]) -> None:
    """Where every model was asked for wrongly there is nothing to test. A gate that is shut is no wrong request."""
    wrong = [e for e in failed.values() if isinstance(e, RequestError) and not isinstance(e, GatedError)]
    if not had and len(wrong) == len(failed):
        raise RequestError("; ".join(map(str, wrong)))


def _make_room(report: Path) -> None:
    """The folder for the report, with nothing of an earlier run in it."""
    try:
        (report / "logs").mkdir(parents=True, exist_ok=True)
        for old in (JUNIT, RUNNING, ENDED, EXIT_CODE, HOST, REPORT_MD, REPORT_JSON, REPORT_HTML):
            (report / old).unlink(missing_ok=True)  # yesterday's must never stand in for a run that died
    except OSError as error:
        raise RequestError(f"--report {report}: cannot be written: {error.strerror}") from None


def _read_fetched(path: Path | None) -> dict[str, Checkpoint]:
    """Return the checkpoints that the suite was given; one that could not be fetched is not among them."""
    return {name: one for name, one in read_checkpoints(path).items() if isinstance(one, Checkpoint)}


def _plan(models: Sequence[HubModel], options: RunOptions, report: Path) -> Plan:
    """What must come back, kept beside the results so that `hub-tests report` can judge them again."""
    request = RunRequest(
        trigger="cli",
        models=tuple(model.name for model in models),
        subject=options.subject or "reference",
        layers=options.layers,
        deep=options.deep,
        device=options.device,
        options=tuple(_where(options)),
    )
    plan = make_plan(request, {model.name: model for model in models})
    (report / "plan.json").write_text(to_json(plan, indent=2), encoding="utf-8")
    return plan


def _where(options: RunOptions) -> Iterator[str]:
    """The options without which the same words would run something else, or nothing."""
    if options.subject_python:
        yield f"--subject-python={options.subject_python}"
    yield from (f"--subject-path={path}" for path in options.subject_path)
    if options.registry:
        yield f"--registry={options.registry}"


def default_workers(models: Sequence[HubModel], device: str | None, environ: Mapping[str, str]) -> int:
    """One xdist worker a GPU, no more than models; 0 (in this process) where there is nothing to share."""
    if len(models) < 2 or (device or default_device()) == "cpu":
        return 0
    gpus = len(visible_gpus(environ))
    return min(gpus, len(models)) if gpus > 1 else 0
