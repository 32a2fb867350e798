"""Run the main job on this machine: fetch the checkpoints, run the suite, write the report."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ci.checkpoints import CHECKPOINTS_JSON, fetch_checkpoints, read_checkpoints, write_checkpoints
from ci.devices import check_driver, choose_worker_count
from ci.doctor.identity import read_host_identity
from ci.environments.model_environments import PreparedSubjects, check_environments, group_models, prepared_subjects
from ci.environments.reference import provide_reference_environments
from ci.environments.source import pin_address
from ci.model_options import apply_model_options, write_model_options
from ci.models import override_part
from ci.phases import PhaseTime
from ci.plan import Plan, RunRequest, make_plan
from ci.records import to_json
from ci.report.build_results import build_results
from ci.report.report_files import write_report
from ci.report.result_files import read_result_files
from ci.report.run_files import write_host
from ci.report_folder import own_report_folder
from ci.run_arguments import make_reproduction_arguments
from ci.run_heading import check_default_subject, format_heading
from ci.run_requirements import check_interpreter, check_requested_models, check_subject, check_suite
from ci.subjects.compile_cache import choose_compile_cache
from ci.subjects.sandbox import choose_isolation
from ci.suite_process import run_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from ci.hub.progress import Progress
    from ci.models import HubModel
    from ci.report.results import Results
    from ci.run_options import RunOptions
    from ci.settings import Settings

FetchProgress: TypeAlias = "Callable[[], AbstractContextManager[Callable[[str, Progress], None] | None]]"
"""Opens what shows the progress of a fetch, for as long as that takes."""

MODEL_OPTIONS = "model-options.json"
"""The file of the report's folder with the options that differ between models."""


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
    check_suite()
    check_default_subject(options, environ, Path.cwd())
    choose_isolation(options.isolation)
    check_environments(models, options)
    choose_compile_cache(options.compile_cache or settings.compile_cache, fill=options.fill_compile_cache)
    if None in group_models(models, options):
        check_subject(replace(options, subject=options.subject_or_default()))
    read_checkpoints(options.checkpoints)
    if options.checkpoints is None and options.device:
        check_driver(options.device, environ)  # before a fetch; after one, the suite's report says it
    if options.reference_python is None:
        provide_reference_environments(models, settings, environ, _say)
    with own_report_folder(report), _announced(models, options, settings, environ, report) as prepared:
        return _run_prepared(
            models, prepared, settings, asked=options, report=report, environ=environ, progress=progress
        )


@contextmanager
def _announced(
    models: Sequence[HubModel], options: RunOptions, settings: Settings, environ: Mapping[str, str], report: Path
) -> Iterator[PreparedSubjects]:
    """Say in the first line what is tested, and yield options whose subject is built."""
    _say(format_heading(options))
    with prepared_subjects(models, options, settings, environ, report, _say) as prepared:
        yield prepared


def _say(line: str) -> None:
    print(f"hub-tests: {line}", file=sys.stderr, flush=True)


def _run_prepared(
    models: Sequence[HubModel],
    prepared: PreparedSubjects,
    settings: Settings,
    *,
    asked: RunOptions,
    report: Path,
    environ: Mapping[str, str],
    progress: FetchProgress,
) -> Results:
    """Run with a subject that can be started; the plan names what was `asked`, which can be run again."""
    options = _complete_options(models, prepared, report)
    outside: list[PhaseTime] = []
    if options.workers is None:
        options = replace(options, workers=choose_worker_count(len(models), options.device, environ))
    if options.checkpoints is None:
        started = time.monotonic()
        with progress() as show:
            results = fetch_checkpoints(models, settings, layers=options.layers, part=options.slice, progress=show)
        outside.append(PhaseTime("fetch", "", time.monotonic() - started))
        check_requested_models(results)
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


def _complete_options(models: Sequence[HubModel], prepared: PreparedSubjects, report: Path) -> RunOptions:
    """Return the suite's options, and write those that differ between models; check that each subject can start."""
    options = prepared.options
    options = replace(options, subject=options.subject_or_default(), subject_logs=report / "logs")
    if prepared.models:
        options = replace(options, model_options=report / MODEL_OPTIONS)
        write_model_options(prepared.models, report / MODEL_OPTIONS)
    for model in models:
        own = apply_model_options(options, model.name)
        if own.environment_failure is None:
            check_subject(own)
            check_interpreter(own)
    return options


def _list_suite_rest(results: Results, options: RunOptions, seconds: float) -> list[PhaseTime]:
    """Return the seconds of the suite that no test contains; tests in several workers overlap, so they say nothing."""
    rest = seconds - sum(case.seconds for entry in results.entries for case in entry.cases)
    return [PhaseTime("start", "suite", rest)] if rest > 0 and not options.workers else []


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
