"""The verbs for people: the registry, the main job on this machine, the machine itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ci.cli import options


def models(registry: options.Registry = None, as_json: options.JsonFlag = False) -> None:
    """The registry: what is tested."""
    from ci.models import REGISTRY, load_models
    from ci.records import to_json

    entries = load_models(registry or REGISTRY)
    if as_json:
        print(to_json(list(entries.values()), indent=2))
        return
    from ci.terminal import models_table

    options.show(models_table(list(entries.values())))


def run(
    call: typer.Context,
    names: options.Models,
    subject: Annotated[
        str | None, typer.Option(help="fast_llm or reference; default: fast_llm where importable")
    ] = None,
    subject_python: Annotated[Path | None, typer.Option(help="interpreter in which the subject lives")] = None,
    subject_path: Annotated[list[Path] | None, typer.Option(help="directory on that interpreter's path")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one")] = None,
    layers: options.Layers = None,
    report: Annotated[Path, typer.Option(help="where report.md, report.json and report.html go")] = Path("out"),
    checkpoints: Annotated[
        Path | None, typer.Option(help="JSON of `hub-tests fetch --json`: test exactly these")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="seconds a subject may take for one call")] = 1800.0,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="seconds for the whole suite; then it is interrupted")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="xdist workers; default: one a GPU")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="also test every config key, weight and gradient")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="one line a test")] = False,
    registry: options.Registry = None,
    as_json: options.JsonFlag = False,
) -> None:
    """The main job on this machine: fetch, suite, summary."""
    from ci import run as job
    from ci.models import REGISTRY, load_models, select
    from ci.report.results import exit_code
    from ci.report.terminal import render_terminal
    from ci.suite_options import layers_option
    from ci.terminal import fetch_progress

    chosen = select(load_models(registry or REGISTRY), names)
    wanted = job.RunOptions(
        subject=options.one_of(subject, ("fast_llm", "reference"), "--subject"),
        subject_python=_here(subject_python),
        subject_path=tuple(path.absolute() for path in subject_path or ()),
        device=options.one_of(device, ("cpu", "cuda"), "--device"),
        layers=layers_option(layers) if layers else None,
        registry=_here(registry),
        checkpoints=_here(checkpoints),
        timeout=timeout,
        time_limit=time_limit,
        workers=workers,
        deep=deep,
        verbose=verbose,
    )
    settings = options.settings(call)
    environ = {**options.environ(call), "HUB_TESTS_CACHE": str(settings.cache.absolute())}
    with fetch_progress() as progress:
        results = job.run(chosen, wanted, settings, report=report.resolve(), environ=environ, progress=progress)
    if as_json:
        from ci.records import to_json

        print(to_json(results, indent=2))
    else:
        options.show(render_terminal(results))
    raise typer.Exit(exit_code(results))


def doctor(
    call: typer.Context,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="the number of GPUs; default: as many as the PCI bus shows")
    ] = None,
    path: Annotated[list[Path] | None, typer.Option(help="a directory; its disk must have free space")] = None,
    runner: Annotated[Path | None, typer.Option(help="directory of the GitHub runner")] = None,
    job_user: Annotated[str | None, typer.Option(help="the user that jobs run as: must not write the store")] = None,
    python: Annotated[Path | None, typer.Option(help="an interpreter with torch, to compute on the GPUs")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="count a check that could not be made as failed")] = False,
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
        python=str(python) if python else None,
    )
    diagnosis = run_doctor(request)
    if as_json:
        print(to_json(diagnosis, indent=2))
    else:
        options.show(render_diagnosis(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


def _here(path: Path | None) -> Path | None:
    """Seen from the suite, which runs in another directory; links stay, since an environment's interpreter is one."""
    return path.absolute() if path else None
