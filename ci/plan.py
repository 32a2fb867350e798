"""RunRequest + registry → Plan: what is tested, and the tests that must come back. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.errors import RequestError
from ci.models import HubModel, select
from ci.records import STRICT, to_json
from ci.subjects.base import SubjectName
from ci.subjects.catalog import expected_tests

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ENTRIES = 256
"""Jobs of one matrix (https://docs.github.com/en/actions/reference/limits)."""

Trigger = Literal["cli", "workflow_dispatch", "schedule", "issue_comment", "merge_group"]
Layers = int | Literal["auto"]


@dataclass(frozen=True)
class RunRequest:
    """Who asks for what. `models` are words of the registry: names, globs, @groups; none means the default group.

    `sha` is the full commit of the subject under test, fixed when the request was made; `subject_ref` the name it
    was asked by. `layers` overrides the registry. `run_id` and `comment_id` tie the answer to GitHub. `options` is what
    else a command line said that makes the run what it is: where the subject lives, another registry.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    trigger: Trigger = "cli"
    models: tuple[str, ...] = ()
    layers: Layers | None = None
    subject: SubjectName = "reference"
    deep: bool = False
    device: str | None = None
    repository: str = ""
    subject_repository: str = ""
    subject_ref: str = ""
    sha: str = ""
    pull_request: int | None = None
    actor: str = ""
    comment_id: int | None = None
    run_id: int | None = None
    run_url: str = ""
    failed_only: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanEntry:
    """One job of the matrix: a registry entry with the request's layers, and the test ids that must come back."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    model: HubModel
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The manifest that the report holds the results against. `registry` is the digest of the whole registry.

    `required` are the models that the commit's policy requires, whether this plan tests them or not.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    request: RunRequest
    entries: tuple[PlanEntry, ...]
    registry: str
    schema: int = 1
    notes: tuple[str, ...] = field(default=())
    required: tuple[str, ...] = field(default=())

    def entry(self, name: str) -> PlanEntry | None:
        """The entry called `name`, None where the plan has none."""
        return next((entry for entry in self.entries if entry.name == name), None)


def make_plan(request: RunRequest, models: Mapping[str, HubModel]) -> Plan:
    """The plan of `request` over the registry `models`, entries in the registry's order.

    Raises RequestError for a word that chooses nothing, an empty selection, more than 256 entries, and two entries
    whose jobs could not be told apart.
    """
    chosen = select(models, request.models)
    if not chosen:
        raise RequestError("the request selects no model: name one, or give the default group some members")
    if len(chosen) > MAX_ENTRIES:
        raise RequestError(
            f"the request selects {len(chosen)} models, one run takes at most {MAX_ENTRIES}: ask for fewer, or by group"
        )
    twins = [name for name, count in Counter(model.name.casefold() for model in chosen).items() if count > 1]
    if twins:
        raise RequestError(f"two entries are called '{twins[0]}': names must differ in more than case")
    entries = tuple(_entry(model, request) for model in chosen)
    return Plan(request=request, entries=entries, registry=registry_digest(models))


def registry_digest(models: Mapping[str, HubModel]) -> str:
    """sha256 of the registry's content: two plans with the same digest were made from the same entries."""
    return hashlib.sha256(to_json([models[name] for name in sorted(models)]).encode()).hexdigest()


def matrix(plan: Plan) -> dict[str, list[dict[str, str]]]:
    """The value of a job's `strategy.matrix`: one job an entry."""
    return {
        "include": [
            {"name": e.name, "model_id": e.model.model_id, "layers": str(e.model.num_layers_to_keep)}
            for e in plan.entries
        ]
    }


def _entry(model: HubModel, request: RunRequest) -> PlanEntry:
    if request.layers is not None:
        model = replace(model, num_layers_to_keep=request.layers)
    tests = expected_tests(request.subject, model.name, model.checkpoint_format, deep=request.deep)
    return PlanEntry(name=model.name, model=model, tests=tests)
