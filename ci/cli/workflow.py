"""The verbs that the workflows call, one for each step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ci.cli import options
from ci.errors import RequestError

Caller = Annotated[Path, typer.Option(help="checkout of the calling repository's default branch")]


def gate(
    call: typer.Context,
    event_path: Annotated[Path, typer.Option(help="file with the comment's webhook payload")],
    registry: options.Registry = None,
    caller: Caller = Path("caller"),
    as_json: options.JsonFlag = False,
) -> None:
    """Decide whether a comment may start a run, and at which commit; answer it."""
    from ci.verbs.gate import run_gate

    decision = run_gate(options.context(call), event_path, registry, caller)
    options.answer(decision, f"{decision.decision}: {decision.reason}", as_json=as_json)


def start(
    call: typer.Context,
    event_path: Annotated[Path, typer.Option(help="the webhook payload of the comment")],
    as_json: options.JsonFlag = False,
) -> None:
    """Announce the run that the gate allows ($HUB_TESTS_DECISION), and cancel runs at older commits."""
    from ci.github.gate import GateDecision
    from ci.github.job_outputs import unpack_record
    from ci.verbs.start import start_run

    packed = options.environ(call).get("HUB_TESTS_DECISION", "")
    decision = unpack_record(GateDecision, packed, what="HUB_TESTS_DECISION")
    started = start_run(options.context(call), event_path, decision)
    options.answer(started, f"{started.decision}: {started.reason}", as_json=as_json)


def plan(
    call: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="with --bytes: registry names, patterns, @groups; default: all", metavar="MODEL…"),
    ] = None,
    event_name: Annotated[
        str | None, typer.Option(help="issue_comment, workflow_dispatch, schedule or merge_group")
    ] = None,
    event_path: Annotated[Path | None, typer.Option(help="file with the event's payload")] = None,
    as_bytes: Annotated[
        bool, typer.Option("--bytes", help="instead: what each model would download, from headers alone")
    ] = False,
    layers: options.Layers = None,
    part: options.SliceOption = None,
    registry: options.Registry = None,
    environment: Annotated[
        str | None, typer.Option(help="what the subject runs in: a name, or a TOML file below --caller")
    ] = None,
    caller: Caller = Path("caller"),
    out: Annotated[Path | None, typer.Option(help="also write the plan to this file, for `hub-tests report`")] = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Make the plan of an event: models, commit, and the tests that must report."""
    if as_bytes:
        from ci.models import REGISTRY, load_models
        from ci.terminal import make_bytes_table
        from ci.verbs.plan_bytes import plan_registry_bytes

        everything = list(load_models(registry or REGISTRY))
        plans = plan_registry_bytes(names or everything, registry, options.settings(call), layers=layers, part=part)
        if as_json:
            options.answer(list(plans), "", as_json=True)
        else:
            options.show(make_bytes_table(plans))
        return
    if event_name is None or event_path is None or names or layers or part:
        raise RequestError("plan needs --event-name and --event-path; MODEL, --layers and --slice go with --bytes")
    from ci.records import to_json
    from ci.verbs.plan import plan_event, read_adapter, read_environment

    context = options.context(call)
    planned = read_environment(environment, caller) if environment else None
    adapter = read_adapter(context.inputs.subject, caller)
    made = plan_event(context, event_name, event_path, registry, planned, adapter, caller)
    if out:
        options.write_file(out, to_json(made, indent=2), "--out")
    listed = ", ".join(entry.name for entry in made.entries)
    options.answer(made, f"{len(made.entries)} entries at {made.request.sha}: {listed}", as_json=as_json)


def pack(
    call: typer.Context,
    subject: Annotated[Path, typer.Option(help="directory of the private subject's checkout")],
    out: Annotated[Path, typer.Option(help="file to write, for `admit --subject-pack`")],
    event_path: Annotated[Path, typer.Option(help="the event's payload, which says whether the caller is private")],
) -> None:
    """Pack the planned commit of a private repository for the job that may not read it."""
    from ci.verbs.pack import pack_subject

    plan = options.plan(call)
    tree = pack_subject(plan, subject, out, event_path, options.environ(call).get("PATH", ""))
    print(f"{out}: commit {plan.request.sha}, tree {tree}, {out.stat().st_size} bytes")


def admit(
    call: typer.Context,
    entry: Annotated[str, typer.Argument(help="plan entry that this job tests")],
    subject: Annotated[Path, typer.Option(help="directory of the subject's checkout")],
    out: Annotated[Path, typer.Option(help="directory for checkpoints.json and models.toml, which `run` reads")],
    subject_pack: Annotated[
        Path | None, typer.Option(help="file of `hub-tests pack` that becomes the subject's checkout first")
    ] = None,
    isolation: Annotated[str, typer.Option(help="as for `run`: required, auto or none")] = "auto",
    cache: options.CacheDir = None,
    store_url: options.StoreUrl = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Check the sandbox, the subject's commit and every byte of the checkpoint before the subject's code runs."""
    from ci.github.actions import write_outputs
    from ci.subjects.sandbox import choose_isolation, parse_isolation
    from ci.verbs.admit import admit_entry

    choose_isolation(parse_isolation(isolation))

    if subject_pack:
        from ci.verbs.pack import unpack_subject

        unpack_subject(subject_pack, options.plan(call).request.sha, subject, options.environ(call).get("PATH", ""))
    settings, context = options.settings(call, cache, store_url), options.context(call)
    options.make_directory(out, "--out")
    admission = admit_entry(
        options.plan(call),
        options.delivery(call),
        entry,
        subject=subject,
        store=settings.cache,
        out=out,
        store_url=settings.store_url,
        run_id=context.run_id,
        environ=options.environ(call),
    )
    if output := context.output_path:
        outputs = {"subject": admission.subject, "environment": admission.environment}
        write_outputs(output, {**outputs, "code-environment": admission.code_environment})
    options.answer(
        admission, f"{entry} at {admission.sha}: checkout and checkpoint are what was planned", as_json=as_json
    )


def report(
    call: typer.Context,
    results: Annotated[Path, typer.Option(help="directory of results, with one directory for each entry")],
    out: Annotated[Path, typer.Option(help="directory for report.md, report.json and report.html")],
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="file with the plan; default: $HUB_TESTS_PLAN")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="results of earlier runs: a JSONL file, or a directory of them")
    ] = None,
    github: Annotated[bool, typer.Option("--github", help="ask GitHub for job results and history")] = False,
    as_json: options.JsonFlag = False,
) -> None:
    """Compare a folder of results with the plan, and write a report."""
    from ci.github.actions import write_outputs
    from ci.report.headline import format_title
    from ci.report.results import exit_code
    from ci.verbs.report import make_report, report_digest

    context, delivery = (options.context(call) if github else None), (options.delivery(call) if github else None)
    run_results = make_report(
        options.plan(call, plan_file),
        results,
        out,
        baseline=baseline,
        context=context,
        problems=delivery.problems if delivery else None,
        fetched=delivery.checkpoints if delivery else None,
    )
    if context and context.output_path:
        write_outputs(context.output_path, {"verdict": run_results.verdict, "sha256": report_digest(out)})
    options.answer(run_results, format_title(run_results), as_json=as_json)
    raise typer.Exit(exit_code(run_results))


def publish(
    call: typer.Context,
    report_dir: Annotated[Path, typer.Option("--report", help="directory that `hub-tests report` wrote")],
    night: Annotated[
        bool, typer.Option("--night", help="write issue and history instead of comment and status")
    ] = False,
    sha256: Annotated[str | None, typer.Option(help="sha256 of report.json: an artifact can be forged")] = None,
    upstream: Annotated[
        Path | None, typer.Option(help="with --night: results with the newest torch and transformers, told apart")
    ] = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Write a report to pull request, commit and summary, or to issue and history."""
    from ci.errors import InfrastructureError
    from ci.verbs.publish import publish_report

    where: Literal["results", "night"] = "night" if night else "results"
    written = publish_report(report_dir, options.context(call), where=where, sha256=sha256, upstream=upstream)
    lines = [f"{one.what}: {one.done or one.problem}" for one in written]
    options.answer(written, "\n".join(lines), as_json=as_json)
    if problems := [f"{one.what}: {one.problem}" for one in written if one.problem]:
        raise InfrastructureError("; ".join(problems))


def watch(
    call: typer.Context,
    job: Annotated[
        list[str] | None, typer.Option(help="name of a job to watch; default: the test of each fetched entry")
    ] = None,
    patience: Annotated[float, typer.Option(min=0, help="seconds that a job may wait for a runner")] = 600.0,
) -> None:
    """Say on the pull request which jobs wait for a runner, and since when."""
    from ci.verbs.watch import watch_jobs

    expected = tuple(job or (f"test {entry}" for entry in options.delivery(call).checkpoints))
    waiting = watch_jobs(options.plan(call), options.context(call), expected, patience=patience)
    print(f"no runner has taken: {', '.join(waiting)}" if waiting else "every job has a runner")


def conclude(
    call: typer.Context,
    may_skip: Annotated[
        list[str] | None, typer.Option(help="name of a job that may be skipped in this run; may be repeated")
    ] = None,
    may_fail: Annotated[
        list[str] | None, typer.Option(help="name of a job whose failure blocks nothing; may be repeated")
    ] = None,
) -> None:
    """Fail unless every job in $NEEDS succeeded, or --may-skip or --may-fail allows it."""
    from ci.verbs.conclude import check_jobs

    results = check_jobs(
        options.environ(call).get("NEEDS", ""), frozenset(filter(None, may_skip or ())), frozenset(may_fail or ())
    )
    print(", ".join(f"{job}: {result}" for job, result in results.items()))
