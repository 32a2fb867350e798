"""The verb `bisect`: which commit, library version or Hub revision broke a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.cli import options
from ci.cli.help import complete_models
from ci.errors import RequestError
from ci.run_arguments import make_cli_arguments
from ci.run_options import RunOptions  # noqa: TC001 -- typer reads it from the annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ci.models import HubModel
    from ci.settings import Settings


@options.takes_run_options
def bisect(
    call: typer.Context,
    name: Annotated[str, typer.Argument(help="one registry name", metavar="MODEL", autocompletion=complete_models)],
    run_options: RunOptions,
    good: Annotated[str, typer.Option(help="commit, branch, tag or version that passes", metavar="REF")],
    bad: Annotated[str, typer.Option(help="newer one that fails", metavar="REF")],
    over: Annotated[
        str,
        typer.Option(
            help="what changes: commits (of --subject-source), hub (the model's revisions), or a package of "
            "--environment, like transformers",
            metavar="commits|hub|PACKAGE",
        ),
    ] = "commits",
    state: Annotated[
        Path | None,
        typer.Option(help="directory of reports and answers, which continues after a kill; default: bisect-MODEL-OVER"),
    ] = None,
    as_json: options.JsonFlag = False,
) -> None:
    """Find the change that broke a model, in at most ceil(log2 n) + 1 runs and one for each that cannot be built."""
    from ci.bisect.session import Question, format_outcome, open_session, run_session

    settings, environ = options.settings(call), options.environ(call)
    model = _find_model(name, run_options)
    check_question(over, run_options)
    folder = (state or Path(f"bisect-{name}-{over}")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    candidates, describe = _list_candidates(model, over, (good, bad), run_options, settings, folder, environ)
    words = tuple(make_cli_arguments(run_options))
    question = Question(name, over, good, bad, candidates, words)

    from ci.bisect.probe import RunProbe

    variables = {**environ, "HUB_TESTS_CACHE": str(settings.cache.absolute())}
    probe = RunProbe(model, over, run_options, settings, variables, folder, make_cli_arguments)
    session = run_session(open_session(question, folder / "state.json"), folder / "state.json", probe, _say)
    options.answer(session, format_outcome(session, describe), as_json=as_json)
    print(f"Reports: {folder}", file=sys.stderr if as_json else sys.stdout)


def check_question(over: str, run_options: RunOptions) -> None:
    """Raise RequestError where what changes is not named by the options of the run."""
    from ci.bisect.candidates import PACKAGE

    if not PACKAGE.fullmatch(over):
        raise RequestError(f"--over {over[:80]}: expected commits, hub or the name of a package")
    if over == "commits" and not run_options.subject_source:
        raise RequestError("bisect over commits needs --subject-source: the checkout or address with the history")
    if over not in ("commits", "hub") and not run_options.environment:
        raise RequestError(f"bisect over {over[:80]} needs --environment: what the versions are installed into")
    if over == "hub" and run_options.checkpoints:
        raise RequestError("bisect over hub fetches each revision itself: leave --checkpoints out")


def _find_model(name: str, run_options: RunOptions) -> HubModel:
    from ci.models import REGISTRY, load_models, select_models

    models = select_models(load_models(run_options.registry or REGISTRY), [name])
    if len(models) != 1:
        raise RequestError(f"bisect takes one model, '{name}' selects {len(models)}")
    return models[0]


def _list_candidates(
    model: HubModel,
    over: str,
    ends: tuple[str, str],
    run_options: RunOptions,
    settings: Settings,
    folder: Path,
    environ: Mapping[str, str],
) -> tuple[tuple[str, ...], Callable[[str], str]]:
    """Return the candidates, and what describes one of them."""
    from ci.bisect.candidates import describe_commit, list_commits, list_revisions, list_versions, open_history

    if over == "hub":
        from ci.hub.remote import HubClient

        revisions = {one.id: one for one in list_revisions(HubClient(settings), model.model_id, *ends)}
        return tuple(revisions), lambda one: f"{one[:12]} {revisions[one].date} {revisions[one].title}".strip()
    if over != "commits":
        return list_versions(over, *ends, environ), lambda version: f"{over} {version}"
    repository = open_history(run_options.subject_source or "", folder / "commits.git", environ)
    return list_commits(repository, *ends, environ), lambda commit: describe_commit(repository, commit, environ)


def _say(line: str) -> None:
    print(f"hub-tests: {line}", file=sys.stderr, flush=True)
