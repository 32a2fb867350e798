"""The command line `hub-tests`: one verb, one function; the only reader of os.environ in the package.

Exit codes: 0 all right, 1 a test failed, 2 the request or the configuration is wrong, 3 infrastructure,
130 interrupted, 70 a bug in hub-tests. Diagnostics go to stderr; stdout carries the answer only.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ci import __version__
from ci.errors import HubTestsError, RequestError, TerminatedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.context import Context
    from ci.github.handover import Delivery
    from ci.models import HubModel
    from ci.plan import Plan
    from ci.settings import Settings

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
cache_app = typer.Typer(help="The store of truncated checkpoints.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Models = Annotated[list[str], typer.Argument(help="registry names, globs, @groups", metavar="MODEL…")]
JsonFlag = Annotated[bool, typer.Option("--json", help="print the answer as JSON")]
Registry = Annotated[Path | None, typer.Option(help="another models.toml")]
Layers = Annotated[str | None, typer.Option(help="layers to keep: a number, or auto", metavar="N|auto")]
CacheDir = Annotated[Path | None, typer.Option("--cache", help="the store; default $HUB_TESTS_CACHE or the user cache")]


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


@app.command()
def models(registry: Registry = None, as_json: JsonFlag = False) -> None:
    """The registry: what is tested."""
    from ci.models import REGISTRY, load_models
    from ci.records import to_json

    entries = load_models(registry or REGISTRY)
    if as_json:
        print(to_json(list(entries.values()), indent=2))
        return
    from ci.terminal import models_table

    _show(models_table(list(entries.values())))


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="registry names, globs, @groups, or Hub ids org/name", metavar="MODEL…")
    ] = None,
    layers: Layers = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    planned: Annotated[bool, typer.Option("--planned", help="the entries of $HUB_TESTS_PLAN, and outputs")] = False,
    cache: CacheDir = None,
    registry: Registry = None,
    as_json: JsonFlag = False,
) -> None:
    """Truncated checkpoints of Hub models into the store."""
    from ci.run import checkpoint_rows, fetch_all
    from ci.suite_options import layers_option
    from ci.terminal import checkpoints_table, fetch_progress

    if bool(names) == planned:
        raise RequestError("fetch what? name a MODEL, or with --planned the plan of an earlier job")
    if planned:
        chosen = tuple(entry.model for entry in _plan(None).entries)
    else:
        chosen = _with_revision(_fetchable(names or [], registry), revision)
    wanted = layers_option(layers) if layers else None
    with fetch_progress() as progress:
        had, failed = fetch_all(chosen, _settings(cache), layers=wanted, progress=progress)
    if planned and (output := _context().output):
        from ci.verbs.fetch import hand_over

        hand_over(_plan(None), had, failed, store=_settings(cache).cache, output=output)
    if as_json:
        print(_json(checkpoint_rows(had)))
    elif had:
        _show(checkpoints_table(had))
    _raise_worst(failed)


@cache_app.command("ls")
def cache_ls(cache: CacheDir = None, as_json: JsonFlag = False) -> None:
    """What the store holds, and in which state."""
    _entries(_store(cache).entries(), as_json=as_json)


@cache_app.command("verify")
def cache_verify(cache: CacheDir = None, as_json: JsonFlag = False) -> None:
    """Hashes every stored file against its manifest; a damaged entry is exit code 3."""
    entries = _store(cache).verify()
    _entries(entries, as_json=as_json)
    if damaged := [entry for entry in entries if entry.state == "damaged"]:
        from ci.errors import InfrastructureError

        raise InfrastructureError(f"{len(damaged)} damaged: {damaged[0].path}: remove it and fetch again")


@cache_app.command("prune")
def cache_prune(
    max_size: Annotated[
        str, typer.Option(help="keep at most this much, like 50GB; 0 removes all that is not in use")
    ] = "0",
    cache: CacheDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Removes stale partial fetches, then the least recently used entries above the size."""
    from ci.terminal import parse_size

    _entries(_store(cache).prune(parse_size(max_size)), as_json=as_json)


@app.command()
def run(
    names: Models,
    subject: Annotated[
        str | None, typer.Option(help="fast_llm or reference; default: fast_llm where importable")
    ] = None,
    subject_python: Annotated[Path | None, typer.Option(help="interpreter in which the subject lives")] = None,
    subject_path: Annotated[list[Path] | None, typer.Option(help="directory on that interpreter's path")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one")] = None,
    layers: Layers = None,
    report: Annotated[Path, typer.Option(help="where report.md, report.json and report.html go")] = Path("out"),
    checkpoints: Annotated[
        Path | None, typer.Option(help="JSON of `hub-tests fetch --json`: test exactly these")
    ] = None,
    timeout: Annotated[float, typer.Option(help="seconds a subject may take for one call")] = 1800.0,
    time_limit: Annotated[
        float | None, typer.Option(help="seconds for the whole suite; then it is interrupted")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="xdist workers; default: one a GPU")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="also the tests of every config key and every weight")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="one line a test")] = False,
    registry: Registry = None,
    as_json: JsonFlag = False,
) -> None:
    """The main job on this machine: fetch, suite, summary."""
    from ci import run as job
    from ci.models import REGISTRY, load_models, select
    from ci.report.results import exit_code
    from ci.report.terminal import render
    from ci.suite_options import layers_option
    from ci.terminal import fetch_progress

    chosen = select(load_models(registry or REGISTRY), names)
    options = job.RunOptions(
        subject=_one_of(subject, ("fast_llm", "reference"), "--subject"),
        subject_python=_here(subject_python),
        subject_path=tuple(path.absolute() for path in subject_path or ()),
        device=_one_of(device, ("cpu", "cuda"), "--device"),
        layers=layers_option(layers) if layers else None,
        registry=_here(registry),
        checkpoints=_here(checkpoints),
        timeout=timeout,
        time_limit=time_limit,
        workers=job.default_workers(chosen, device) if workers is None else workers,
        deep=deep,
        verbose=verbose,
    )
    settings = _settings(None)
    environ = {**os.environ, "HUB_TESTS_CACHE": str(settings.cache.absolute())}
    with fetch_progress() as progress:
        results = job.run(chosen, options, settings, report=report.resolve(), environ=environ, progress=progress)
    if as_json:
        from ci.records import to_json

        print(to_json(results, indent=2))
    else:
        _show(render(results))
    raise typer.Exit(exit_code(results))


@app.command()
def doctor(
    gpus: Annotated[
        int | None, typer.Option(help="how many GPUs must be there; default: as many as the PCI bus shows")
    ] = None,
    path: Annotated[list[Path] | None, typer.Option(help="a directory whose disk must have room")] = None,
    runner: Annotated[Path | None, typer.Option(help="directory of the GitHub runner")] = None,
    job_user: Annotated[str | None, typer.Option(help="the user that jobs run as: must not write the store")] = None,
    python: Annotated[Path | None, typer.Option(help="an interpreter with torch, for the CUDA operation")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="a check that could not be made counts as failed")] = False,
    cache: CacheDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Is this host fit to run GPU tests?"""
    from ci.doctor import DoctorRequest, run_doctor
    from ci.doctor.table import render
    from ci.records import to_json

    settings = _settings(cache)
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
        _show(render(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


@app.command()
def gate(
    event_path: Annotated[Path, typer.Option(help="the webhook payload of a comment")],
    registry: Registry = None,
    as_json: JsonFlag = False,
) -> None:
    """May this comment start a run, and at which commit: decides, answers on the pull request, writes outputs."""
    from ci.verbs.gate import gate as decide

    decision = decide(_context(), event_path, registry)
    _answer(decision, f"{decision.decision}: {decision.reason}", as_json=as_json)


@app.command()
def plan(
    event_name: Annotated[str, typer.Option(help="issue_comment, workflow_dispatch or schedule")],
    event_path: Annotated[Path, typer.Option(help="the event's payload")],
    registry: Registry = None,
    out: Annotated[Path | None, typer.Option(help="also write the plan here, for `hub-tests report`")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Event to plan: what is tested, at which commit, and which tests must come back."""
    from ci.records import to_json
    from ci.verbs.plan import plan as make

    made = make(_context(), event_name, event_path, registry)
    if out:
        out.write_text(to_json(made, indent=2), encoding="utf-8")
    names = ", ".join(entry.name for entry in made.entries)
    _answer(made, f"{len(made.entries)} entries at {made.request.sha}: {names}", as_json=as_json)


@app.command()
def admit(
    entry: Annotated[str, typer.Argument(help="the entry that this job tests")],
    subject: Annotated[Path, typer.Option(help="checkout of the subject")],
    out: Annotated[Path, typer.Option(help="where checkpoints.json and models.toml for `run` go")],
    cache: CacheDir = None,
    as_json: JsonFlag = False,
) -> None:
    """The last look before a subject's code runs: its commit and every byte of the checkpoint are what was planned."""
    from ci.github.actions import write_outputs
    from ci.verbs.admit import admit as let_in

    store = _settings(cache).cache
    admission = let_in(_plan(None), _delivery(), entry, subject=subject, store=store, out=out)
    if output := _context().output:
        write_outputs(output, {"subject": admission.subject, "subject-path": admission.path})
    _answer(admission, f"{entry} at {admission.sha}: checkout and checkpoint are what was planned", as_json=as_json)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="folder of results, one folder an entry")],
    out: Annotated[Path, typer.Option(help="where report.md, report.json and report.html go")],
    plan_file: Annotated[Path | None, typer.Option("--plan", help="the plan; default $HUB_TESTS_PLAN")] = None,
    baseline: Annotated[Path | None, typer.Option(help="history: a JSONL file or a folder of them")] = None,
    github: Annotated[bool, typer.Option("--github", help="ask GitHub for job conclusions and history")] = False,
    as_json: JsonFlag = False,
) -> None:
    """A folder of results against the plan, into a report; on a laptop as in Actions."""
    from ci.github.actions import write_outputs
    from ci.report.results import exit_code
    from ci.report.words import title
    from ci.verbs.report import report as judge
    from ci.verbs.report import report_digest

    context, delivery = (_context() if github else None), (_delivery() if github else None)
    problems = delivery.problems if delivery else None
    judged = judge(_plan(plan_file), results, out, baseline=baseline, context=context, problems=problems)
    if context and context.output:
        write_outputs(context.output, {"verdict": judged.verdict, "sha256": report_digest(out)})
    _answer(judged, title(judged), as_json=as_json)
    raise typer.Exit(exit_code(judged))


@app.command()
def publish(
    report_dir: Annotated[Path, typer.Option("--report", help="folder that `hub-tests report` wrote")],
    night: Annotated[
        bool, typer.Option("--night", help="write issue and history instead of comment and check")
    ] = False,
    sha256: Annotated[str | None, typer.Option(help="what report.json must hash to: an artifact can be forged")] = None,
    as_json: JsonFlag = False,
) -> None:
    """A report to where people look: pull request, commit, job summary; after a night, issue and history."""
    from ci.errors import InfrastructureError
    from ci.verbs.publish import publish as write

    written = write(report_dir, _context(), where="night" if night else "results", sha256=sha256)
    lines = [f"{one.what}: {one.done or one.problem}" for one in written]
    _answer(written, "\n".join(lines), as_json=as_json)
    if problems := [f"{one.what}: {one.problem}" for one in written if one.problem]:
        raise InfrastructureError("; ".join(problems))


@app.command()
def watch(patience: Annotated[float, typer.Option(help="seconds that a job may wait for a machine")] = 600.0) -> None:
    """While tests wait for a machine: say so on the pull request, with the labels and since when."""
    from ci.verbs.watch import watch as wait

    waiting = wait(_plan(None), _context(), tuple(_delivery().checkpoints), patience=patience)
    print(f"no machine has taken: {', '.join(waiting)}" if waiting else "every entry is on a machine")


@app.command()
def conclude(
    may_skip: Annotated[list[str] | None, typer.Option(help="a job that may be skipped in this run")] = None,
) -> None:
    """The last job of a workflow: green only if every job in $NEEDS succeeded, or was skipped with leave."""
    from ci.verbs.conclude import conclude as judge

    results = judge(os.environ.get("NEEDS", ""), frozenset(job for job in may_skip or () if job))
    print(", ".join(f"{job}: {result}" for job, result in results.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; every expected failure is one line on stderr and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(args=list(argv) if argv is not None else None, standalone_mode=False)
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


def _settings(cache: Path | None) -> Settings:
    from ci.settings import from_environ

    return from_environ({**os.environ, **({"HUB_TESTS_CACHE": str(cache)} if cache else {})})


def _here(path: Path | None) -> Path | None:
    """Seen from the suite, which runs in another directory; links stay, since an environment's interpreter is one."""
    return path.absolute() if path else None


def _context() -> Context:
    from ci.github.context import from_environ

    return from_environ(os.environ)


def _plan(path: Path | None) -> Plan:
    """The plan in a file, or the one that an earlier job packed into `$HUB_TESTS_PLAN`."""
    from ci.plan import Plan
    from ci.records import read_json

    if path is None:
        from ci.github.handover import unpack

        return unpack(Plan, os.environ.get("HUB_TESTS_PLAN", ""), what="HUB_TESTS_PLAN")
    try:
        return read_json(Plan, path.read_bytes(), what=str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot read the plan: {error.strerror}") from None


def _delivery() -> Delivery:
    """What the fetch job packed into `$HUB_TESTS_DELIVERY`; nothing where it never came to it."""
    from ci.github.handover import Delivery, unpack

    packed = os.environ.get("HUB_TESTS_DELIVERY", "")
    return unpack(Delivery, packed, what="HUB_TESTS_DELIVERY") if packed else Delivery({}, {})


def _answer(record: object, line: str, *, as_json: bool) -> None:
    from ci.records import to_json

    print(to_json(record, indent=2) if as_json else line)


def _store(cache: Path | None) -> Any:
    from ci.hub.store import Store

    return Store(_settings(cache).cache)


def _fetchable(names: list[str], registry: Path | None) -> tuple[HubModel, ...]:
    """Registry entries, and Hub ids as entries of their own."""
    from ci.models import REGISTRY, HubModel, load_models, select

    known = load_models(registry or REGISTRY)
    words = [name for name in names if "/" not in name]
    ids = tuple(HubModel(name=name, model_id=name, checkpoint_format="") for name in names if "/" in name)
    return (*(select(known, words) if words else ()), *ids)


def _with_revision(chosen: tuple[HubModel, ...], revision: str | None) -> tuple[HubModel, ...]:
    from dataclasses import replace

    return tuple(replace(model, revision=revision or model.revision) for model in chosen)


def _entries(entries: Any, *, as_json: bool) -> None:
    if as_json:
        from ci.records import to_json

        print(to_json(list(entries), indent=2))
        return
    from ci.terminal import entries_table

    _show(entries_table(entries))


def _raise_worst(failed: dict[str, HubTestsError]) -> None:
    """Say each failure; the process's answer is that of the gravest (infrastructure before request)."""
    if not failed:
        return
    *others, last = sorted(failed.values(), key=lambda error: error.exit_code)
    for error in others:
        print(f"hub-tests: {error}", file=sys.stderr)
    raise last


def _one_of(value: Any, known: tuple[str, ...], option: str) -> Any:
    if value is not None and value not in known:
        from ci.models import suggestion

        raise RequestError(f"{option} {value}: expected {' or '.join(known)}.{suggestion(value, known)}")
    return value


def _json(rows: object) -> str:
    import json

    return json.dumps(rows, indent=2)


def _show(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


if __name__ == "__main__":
    sys.exit(main())
