"""`hub-tests plan`: from an event to a RunRequest with a fixed commit to a Plan, as a record and as outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci.errors import RequestError
from ci.github.actions import write_outputs
from ci.github.command import SHA
from ci.github.event import load_event
from ci.github.job_outputs import pack_record
from ci.github.run_request import choose_head, choose_scope, make_run_request
from ci.models import REGISTRY, load_models
from ci.plan import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from ci.plan import Plan, RunRequest


@dataclass(frozen=True)
class _Commit:
    sha: str


def plan_event(context: Context, event_name: str, event_path: Path, registry: Path | None = None) -> Plan:
    """Plan a recorded event.

    GitHub is asked only for a commit that is not given in full.
    """
    request = make_run_request(load_event(event_name, event_path), context)
    models = load_models(registry or REGISTRY)
    make_plan(request, models)  # refuse a request that selects nothing before GitHub is asked for its commit
    plan = make_plan(replace(request, sha=request.sha or resolve_commit(request, context)), models)
    if context.output_path:
        write_outputs(context.output_path, _format_outputs(plan))
    return plan


def resolve_commit(request: RunRequest, context: Context) -> str:
    """Return the full commit of the subject under test."""
    if SHA.fullmatch(request.subject_ref) and not request.pull_request:
        return request.subject_ref
    from ci.github.client import Client
    from ci.github.pulls import get_pull_request

    if request.pull_request:
        with Client(context.api) as client:
            return choose_head(request, get_pull_request(client, request.pull_request))
    with Client(replace(context.api, repository=request.subject_repository)) as client:
        ref = quote(request.subject_ref or "HEAD", safe="")
        sha = client.get(_Commit, f"/commits/{ref}").sha
    if not SHA.fullmatch(sha):
        raise RequestError(f"{request.subject_repository}@{request.subject_ref}: GitHub names no commit for it")
    return sha


def _format_outputs(plan: Plan) -> dict[str, str]:
    return {
        "plan": pack_record(plan),
        "sha": plan.request.sha,
        "subject-repository": plan.request.subject_repository,
        "scope": choose_scope(plan.request),
        "count": str(len(plan.entries)),
    }
