"""The verbs for a person at a machine: `models`, `run`, `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ci.cli import options
from ci.run_options import RunOptions  # noqa: TC001 -- typer reads it from the annotations
from ci.subjects.sandbox import IsolationMode  # noqa: TC001 -- typer reads it from the annotations


def models(registry: options.Registry = None, as_json: options.JsonFlag = False) -> None:
    """List the models of the registry."""
    from ci.models import REGISTRY, load_models
    from ci.records import to_json

    entries = load_models(registry or REGISTRY)
    if as_json:
        print(to_json(list(entries.values()), indent=2))
        return
    if not entries:
        print(f"no models in {registry}")
        return
    from ci.terminal import make_models_table

    options.show(make_models_table(list(entries.values())))


@options.takes_run_options
def run(
    call: typer.Context,
    names: options.Models,
    run_options: RunOptions,
    report: Annotated[Path, typer.Option(help="directory for report.md, report.json and report.html")] = Path("out"),
    as_json: options.JsonFlag = False,
) -> None:
    """Test models on this machine: fetch them, run the suite, write a report."""
    from ci import run as main_job
    from ci.models import REGISTRY, load_models, select_models
    from ci.report.report_files import REPORT_HTML
    from ci.report.results import exit_code
    from ci.report.terminal import render_terminal
    from ci.terminal import fetch_progress

    models = select_models(load_models(run_options.registry or REGISTRY), names)
    settings = options.settings(call)
    environ = {**options.environ(call), "HUB_TESTS_CACHE": str(settings.cache.absolute())}
    results = main_job.run(
        models, run_options, settings, report=report.resolve(), environ=environ, progress=fetch_progress
    )
    if as_json:
        from ci.records import to_json

        print(to_json(results, indent=2))
    else:
        options.show(render_terminal(results))
    print(f"Report: {report / REPORT_HTML}", file=sys.stderr if as_json else sys.stdout)
    raise typer.Exit(exit_code(results, accept_known_refusals=run_options.accept_known_refusals))


def matrix(
    baseline: Annotated[Path, typer.Option(help="results of earlier nights: a JSONL file, or a directory of them")],
    subject: Annotated[str, typer.Option(help="fast_llm or reference")] = "fast_llm",
    registry: options.Registry = None,
    html: Annotated[
        Path | None, typer.Option(help="directory to which the dashboard (index.html) and matrix.html are written")
    ] = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Print the support matrix: every format, model, dtype and variant, from earlier nights' results."""
    from datetime import UTC, datetime

    from ci.models import REGISTRY, load_models
    from ci.report.support_matrix import build_support_matrix
    from ci.report.support_matrix_markdown import render_support_matrix
    from ci.verbs.report import read_baseline

    entries, now = load_models(registry or REGISTRY), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    history = read_baseline(baseline)
    built = build_support_matrix(entries.values(), history, subject, now)
    if html:
        from ci.report.dashboard import render_pages

        for name, page in render_pages(history, entries.values(), subject, made=now).items():
            options.write_file(html / name, page, "--html")
    options.answer(built, render_support_matrix(built), as_json=as_json)
    if html:
        from ci.report.dashboard import DASHBOARD

        print(f"Dashboard: {html / DASHBOARD}", file=sys.stderr if as_json else sys.stdout)


def doctor(
    call: typer.Context,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, help="the number of GPUs; default: as many as the PCI bus shows"),
    ] = None,
    path: Annotated[list[Path] | None, typer.Option(help="a directory; its disk must have free space")] = None,
    runner: Annotated[Path | None, typer.Option(help="directory of the GitHub runner")] = None,
    job_user: Annotated[
        str | None, typer.Option(help="user that runs the jobs; it must not be able to write to the store")
    ] = None,
    python: Annotated[Path | None, typer.Option(help="an interpreter with torch, to compute on the GPUs")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="count a check that could not be made as failed")] = False,
    isolation: Annotated[
        IsolationMode,
        typer.Option(
            help="sandbox for subjects: required (none is a failure), auto (none is a warning), none (no check)"
        ),
    ] = "auto",
    cache: options.CacheDir = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Check whether this host can run GPU tests, and say what to repair."""
    from ci.doctor import DoctorRequest, run_doctor
    from ci.doctor.table import render_diagnosis
    from ci.records import to_json

    settings = options.settings(call, cache)
    request = DoctorRequest(
        gpus=gpus,
        paths=tuple(str(p) for p in path or ()),
        runner=str(runner) if runner else None,
        store=str(settings.cache) if settings.cache.exists() else None,
        job_user=job_user,
        endpoint=settings.endpoint,
        offline=settings.offline,
        strict=strict,
        isolation=isolation,
        python=str(python) if python else None,
    )
    diagnosis = run_doctor(request, options.environ(call))
    if as_json:
        print(to_json(diagnosis, indent=2))
    else:
        options.show(render_diagnosis(diagnosis))
    raise typer.Exit(diagnosis.exit_code)
