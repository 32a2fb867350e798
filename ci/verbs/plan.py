"""`hub-tests plan`: from an event to a RunRequest with a fixed commit to a Plan, as a record and as outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci.consumers.registry import find_consumer
from ci.environments.description import load_description
from ci.errors import RequestError
from ci.github.actions import write_outputs
from ci.github.event import SHA, load_event
from ci.github.job_outputs import pack_record
from ci.github.run_request import choose_head, choose_scope, make_run_request, may_fill_compile_cache
from ci.models import REGISTRY, load_models, select_models
from ci.plan import PlannedAdapter, PlannedEnvironment, announce_adapter, make_plan, require_models
from ci.subjects.described import MAX_BYTES, SUFFIX
from ci.subjects.registry import find_offer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ci.github.client import Client
    from ci.github.context import Context
    from ci.models import HubModel
    from ci.plan import Plan, PlanEntry, RunRequest
    from ci.subjects.registry import SubjectName


@dataclass(frozen=True)
class _Commit:
    sha: str


@dataclass(frozen=True)
class _Comparison:
    status: str


def read_environment(name: str, caller: Path) -> PlannedEnvironment:
    """Read what the subject runs in.

    It is a name that hub-tests knows, or a TOML file in the checkout `caller`.
    Raises RequestError for a description that is none, or that is not in the checkout.
    """
    if not name.endswith(".toml"):
        return PlannedEnvironment(load_description(name).name)
    path = _find_callers_file(name, caller, what="environment")
    return PlannedEnvironment(load_description(str(path)).name, path.read_text(encoding="utf-8"))


def read_entry_environments(entry: PlanEntry, subject: SubjectName, caller: Path) -> PlanEntry:
    """Return an entry of the plan with the environments that the registry names for it.

    Raises RequestError, which names the entry, for a description that is none.
    """
    named = (entry.model.find_environment(find_offer(subject).name), entry.model.code_environment)
    try:
        own, code = (read_environment(name, caller) if name else None for name in named)
    except RequestError as error:
        raise RequestError(f"[{entry.name}] {error}") from None
    return replace(entry, environment=own, code_environment=code)


def read_adapter(subject: str, caller: Path) -> PlannedAdapter | None:
    """Read the description of an adapter in the checkout `caller`, and make it findable; None for a known subject.

    Raises RequestError for a description that is none, or that is not in the checkout.
    """
    if not subject.endswith(SUFFIX):
        return None
    path = _find_callers_file(subject, caller, what="subject")
    try:
        text = path.read_bytes()[: MAX_BYTES + 1].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"subject {subject[:200]}: cannot read the file of the default branch: {error}") from None
    if len(text) > MAX_BYTES:
        raise RequestError(f"subject {subject[:200]}: longer than {MAX_BYTES} bytes: not a description of an adapter")
    adapter = PlannedAdapter(subject, text)
    announce_adapter(adapter)
    return adapter


def _find_callers_file(name: str, caller: Path, *, what: str) -> Path:
    path = (caller / name).resolve()
    if not path.is_relative_to(caller.resolve()):
        raise RequestError(f"{what} {name[:200]}: expected a file of the calling repository's default branch")
    return path


def plan_event(
    context: Context,
    event_name: str,
    event_path: Path,
    registry: Path | None = None,
    environment: PlannedEnvironment | None = None,
    adapter: PlannedAdapter | None = None,
    caller: Path = Path("caller"),
) -> Plan:
    """Plan a recorded event; `caller` is the checkout of the calling repository's default branch.

    GitHub is asked only for a commit that is not given in full, and whether a commit is the repository's own. A run
    that no comment announced sets the commit's status to pending.
    """
    event = load_event(event_name, event_path)
    request = make_run_request(event, context)
    request = replace(request, subject=announce_adapter(adapter) or request.subject)
    models = load_models(registry or REGISTRY)
    select_models(models, context.inputs.required)  # refuse words that select nothing before GitHub is asked
    request = _drop_usual_part(request, models)
    make_plan(request, models)  # refuse a request that selects nothing before GitHub is asked for its commit
    plan = make_plan(replace(request, sha=request.sha or resolve_commit(request, context)), models)
    plan = require_models(plan, models, context.inputs.required)
    entries = tuple(read_entry_environments(entry, request.subject, caller) for entry in plan.entries)
    plan = replace(plan, environment=environment, adapter=adapter, entries=entries)
    if context.output_path:
        fill = may_fill_compile_cache(event, request)
        write_outputs(context.output_path, {**_format_outputs(plan), "fill-compile-cache": "true" if fill else ""})
        _announce(plan, context)
    return plan


def _drop_usual_part(request: RunRequest, models: Mapping[str, HubModel]) -> RunRequest:
    """Drop layers and a slice that are the registry's for each model: then the result is an ordinary one."""
    selected = select_models(models, request.models)
    if {model.layer_request for model in selected} == {request.layers}:
        request = replace(request, layers=None)
    return replace(request, slice=None) if {model.slice for model in selected} == {request.slice} else request


def resolve_commit(request: RunRequest, context: Context) -> str:
    """Return the full commit of the subject under test.

    Raises RequestError for a commit that is not the repository's own, for which no pull request is named: GitHub
    shows a fork's commits in the repository that it was forked from, so a name or a commit alone proves nothing.
    """
    if SHA.fullmatch(request.subject_ref) and not request.pull_request and request.trigger != "workflow_dispatch":
        return request.subject_ref
    from ci.github.client import Client
    from ci.github.pulls import get_pull_request

    if request.pull_request:
        with Client(context.api) as client:
            return choose_head(request, get_pull_request(client, request.pull_request))
    is_own = request.subject_repository.casefold() == context.repository.casefold()
    token = context.api.token if is_own else context.subject_token or context.api.token
    with Client(replace(context.api, repository=request.subject_repository, token=token)) as client:
        sha = request.subject_ref
        if not SHA.fullmatch(sha):
            sha = client.get(_Commit, f"/commits/{quote(request.subject_ref or 'HEAD', safe='')}").sha
        if not SHA.fullmatch(sha):
            raise RequestError(f"{request.subject_repository}@{request.subject_ref}: GitHub names no commit for it")
        by_hand = request.trigger == "workflow_dispatch" and request.subject_ref
        if by_hand and not _is_own_commit(client, request.subject_ref, sha):
            raise RequestError(
                f"{request.subject_repository}@{request.subject_ref[:100]}: {sha} is no tag, no branch's head and not "
                "in the default branch's history; for a pull request, give its number and the commit that you reviewed"
            )
    return sha


def _is_own_commit(client: Client, ref: str, sha: str) -> bool:
    """Return whether somebody with write permission has put the commit into the repository."""
    from ci.github.api import ConflictError, NotFoundError

    try:
        if client.send("GET", f"/commits/{sha}/branches-where-head"):
            return True
        comparison = client.get(_Comparison, f"/compare/{quote(sha, safe='')}...HEAD")
        if comparison.status in ("ahead", "identical"):
            return True
    except (NotFoundError, ConflictError):
        return False
    try:
        client.send("GET", f"/git/ref/{quote(f'tags/{ref}', safe='')}")
    except (NotFoundError, ConflictError):
        return False
    return True


def _announce(plan: Plan, context: Context) -> None:
    """Set the commit's status to pending; other runs know of this one by it."""
    request = plan.request
    if request.comment_id or request.subject_repository != context.repository or not context.api.token:
        return
    from ci.github.client import Client
    from ci.github.commit_status import RunUnderWay, decide_status, set_status
    from ci.github.cosmetic import try_cosmetic

    names = tuple(entry.name for entry in plan.entries)
    status = decide_status((), (), (RunUnderWay(request.run_id or 0, names),))

    def announce() -> None:
        with Client(context.api) as client:
            set_status(client, request.sha, status.state, status.description, request.run_url)

    try_cosmetic("the pending status", announce, None)


def _format_outputs(plan: Plan) -> dict[str, str]:
    return {
        "plan": pack_record(plan),
        "sha": plan.request.sha,
        "subject-repository": plan.request.subject_repository,
        "scope": choose_scope(plan.request),
        "deep": "true" if plan.request.deep else "",
        **_format_consumer(plan.request.consumer),
        "count": str(len(plan.entries)),
    }


def _format_consumer(name: str | None) -> dict[str, str]:
    """Return the engine, and the environment that a test machine must have for it."""
    offer = find_consumer(name) if name else None
    return {"consumer": name or "", "consumer-environment": (offer and offer.environment) or ""}
