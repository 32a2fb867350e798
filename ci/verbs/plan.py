"""`hub-tests plan`: event → RunRequest with its commit fixed → Plan, as a record and as outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from ci.errors import RequestError
from ci.github.actions import write_outputs
from ci.github.command import SHA
from ci.github.event import load_event
from ci.github.handover import pack
from ci.github.request import head_for, request_of, scope_of
from ci.models import REGISTRY, load_models
from ci.plan import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from ci.github.context import Context
    from ci.plan import Plan, RunRequest


@dataclass(frozen=True)
class _Commit:
    sha: str


def plan(context: Context, event_name: str, event_path: Path, registry: Path | None = None) -> Plan:
    """The plan of a recorded event; GitHub is asked only for a commit that nobody has named in full."""
    request = request_of(load_event(event_name, event_path), context)
    models = load_models(registry or REGISTRY)
    make_plan(request, models)  # a request that selects nothing is refused before GitHub is asked for its commit
    made = make_plan(replace(request, sha=request.sha or commit_of(request, context)), models)
    if context.output:
        write_outputs(context.output, _outputs(made))
    return made


def commit_of(request: RunRequest, context: Context) -> str:
    """The full commit of the subject under test."""
    if SHA.fullmatch(request.subject_ref) and not request.pull_request:
        return request.subject_ref
    from ci.github.client import Client
    from ci.github.pulls import pull_request

    if request.pull_request:
        with Client(context.api) as client:
            return head_for(request, pull_request(client, request.pull_request))
    with Client(replace(context.api, repository=request.subject_repository)) as client:
        ref = quote(request.subject_ref or "HEAD", safe="")
        sha = client.get(_Commit, f"/commits/{ref}").sha
    if not SHA.fullmatch(sha):
        raise RequestError(f"{request.subject_repository}@{request.subject_ref}: GitHub names no commit for it")
    return sha


def _outputs(made: Plan) -> dict[str, str]:
    return {
        "plan": pack(made),
        "sha": made.request.sha,
        "subject-repository": made.request.subject_repository,
        "scope": scope_of(made.request),
        "count": str(len(made.entries)),
    }
