"""From a RunRequest and the registry to a Plan: the models, and the tests that must report a result. No I/O."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.consumers.registry import ConsumerName
from ci.errors import RequestError
from ci.hub.layers import LayerRequest
from ci.hub.slices import Slice
from ci.known_refusals import LeftOut
from ci.models import DEFAULT_GROUP, HubModel, override_part, select_models
from ci.records import STRICT, to_json
from ci.subjects.described import announce_described, parse_described
from ci.subjects.registry import ADAPTERS, SubjectName, find_offer
from ci.suite.tests import list_expected_tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_ENTRIES = 256
"""Jobs of one matrix (https://docs.github.com/en/actions/reference/limits)."""

Trigger = Literal["cli", "workflow_dispatch", "schedule", "issue_comment", "merge_group"]


@dataclass(frozen=True)
class RunRequest:
    """Who asks for which run. `models` are names, patterns or @groups; none means the default group.

    `sha` is the subject's full commit, fixed when the request was made; `subject_ref` is the branch or tag that was
    asked for. `layers` and `slice` override the registry. `consumer` is the engine that serves each export. `run_id`
    and `comment_id` say where on GitHub the answer goes. `options` are further words of the command line that
    reproduces the run, such as --subject-path or --registry.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    trigger: Trigger = "cli"
    models: tuple[str, ...] = ()
    layers: LayerRequest | None = None
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
    consumer: ConsumerName | None = None
    slice: Slice | None = None


@dataclass(frozen=True)
class PlannedEnvironment:
    """What the subject runs in: a name that hub-tests knows, or the caller's own description as TOML in `text`."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    text: str = ""


@dataclass(frozen=True)
class PlanEntry:
    """One job of the matrix: a registry entry with the request's layers, and the ids of its tests.

    `environment` is the subject's where the entry names one, `code_environment` that of the model's own code.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    model: HubModel
    tests: tuple[str, ...]
    environment: PlannedEnvironment | None = None
    code_environment: PlannedEnvironment | None = None


@dataclass(frozen=True)
class PlannedAdapter:
    """The description of an adapter that hub-tests does not have: its file in the caller's repository, and its text."""

    __pydantic_config__: ClassVar[Any] = STRICT

    file: str
    text: str


@dataclass(frozen=True)
class Plan:
    """The tests that a report expects results for. `registry` is the digest of the whole registry.

    `required` are the models that the commit's policy requires, whether this plan tests them or not. `environment` None
    means the subject's own. `adapter` is there where the subject is described by a file. `left_out` are the models that
    would be tested or required, were they not known to be refused.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    request: RunRequest
    entries: tuple[PlanEntry, ...]
    registry: str
    schema: int = 1
    notes: tuple[str, ...] = field(default=())
    required: tuple[str, ...] = field(default=())
    environment: PlannedEnvironment | None = None
    adapter: PlannedAdapter | None = None
    left_out: tuple[LeftOut, ...] = field(default=())

    def entry(self, name: str) -> PlanEntry | None:
        """Return the entry called `name`, None where the plan has none."""
        return next((entry for entry in self.entries if entry.name == name), None)


def announce_adapter(adapter: PlannedAdapter | None) -> str | None:
    """Make a described adapter findable in this process, and return its name; None for none."""
    if adapter is None:
        return None
    described = parse_described(adapter.text, what=adapter.file)
    announce_described(described, ADAPTERS)
    return described.offer.name


def make_plan(request: RunRequest, models: Mapping[str, HubModel]) -> Plan:
    """Make the plan of `request` over the registry `models`, in the registry's order.

    Raises RequestError for a word that selects nothing, an empty selection, more than 256 entries, and two names that
    differ only in case: their jobs would have the same name. On a pull request, a model of the default group that the
    subject is known to refuse is left out, unless nothing else would be tested.
    """
    selected = select_models(models, request.models)
    left_out = find_left_out(selected, request.subject) if leaves_out_refused(request) else ()
    if len(left_out) < len(selected):
        selected = tuple(model for model in selected if model.name not in {one.name for one in left_out})
    else:
        left_out = ()
    if not selected:
        raise RequestError("the request selects no model: name one, or give the default group some members")
    if len(selected) > MAX_ENTRIES:
        raise RequestError(
            f"the request selects {len(selected)} models, "
            f"one run takes at most {MAX_ENTRIES}: ask for fewer, or by group"
        )
    duplicates = [name for name, count in Counter(model.name.casefold() for model in selected).items() if count > 1]
    if duplicates:
        raise RequestError(f"two entries are called '{duplicates[0]}': names must differ in more than case")
    entries = tuple(_make_entry(model, request) for model in selected)
    return Plan(request=request, entries=entries, registry=registry_digest(models), left_out=left_out)


def leaves_out_refused(request: RunRequest) -> bool:
    """Return whether a run judges an unmerged change, and nobody named its models."""
    if request.trigger == "merge_group":
        return True
    return not request.models and (request.pull_request is not None or request.trigger == "issue_comment")


def find_left_out(models: Iterable[HubModel], subject: SubjectName) -> tuple[LeftOut, ...]:
    """Find the models that the subject is known to refuse."""
    name = find_offer(subject).name
    return tuple(LeftOut(model.name, known) for model in models if (known := model.find_refusal(name)))


def require_models(plan: Plan, models: Mapping[str, HubModel], words: tuple[str, ...]) -> Plan:
    """Return the plan with the required models that `words` select.

    Those that the subject is known to refuse are not required, and the plan names them if it does not test them. So it
    does with those of the default group: the gate names the models of a comment, and has left them out before.
    """
    required = select_models(models, words)
    refused = find_left_out(required, plan.request.subject)
    planned, named = {entry.name for entry in plan.entries}, {one.name for one in refused}
    candidates = (*plan.left_out, *refused, *_find_left_out_by_gate(plan, models))
    left_out = {one.name: one for one in candidates if one.name not in planned}
    names = tuple(model.name for model in required if model.name not in named)
    return replace(plan, required=names, left_out=tuple(left_out.values()))


def _find_left_out_by_gate(plan: Plan, models: Mapping[str, HubModel]) -> tuple[LeftOut, ...]:
    """Find what the gate left out: the refused ones of the default group, where all its others are planned."""
    default = [model for model in models.values() if DEFAULT_GROUP in model.groups]
    refused = find_left_out(default, plan.request.subject)
    others = {model.name for model in default} - {one.name for one in refused}
    whole = bool(others) and others <= {entry.name for entry in plan.entries}
    return refused if plan.request.trigger == "issue_comment" and whole else ()


def leave_out_consumer(plan: Plan) -> Plan:
    """Return the plan of the same run in which no engine serves the exports."""
    request = replace(plan.request, consumer=None)
    entries = tuple(replace(entry, tests=_list_tests(entry.model, request)) for entry in plan.entries)
    return replace(plan, request=request, entries=entries)


def registry_digest(models: Mapping[str, HubModel]) -> str:
    """Return the sha256 of the registry's content: equal digests mean equal entries."""
    return hashlib.sha256(to_json([models[name] for name in sorted(models)]).encode()).hexdigest()


def matrix(plan: Plan) -> dict[str, list[dict[str, str]]]:
    """Return the value of a job's `strategy.matrix`: one job for each entry."""
    return {
        "include": [
            {"name": e.name, "model_id": e.model.model_id, "layers": str(e.model.num_layers_to_keep)}
            for e in plan.entries
        ]
    }


def _make_entry(model: HubModel, request: RunRequest) -> PlanEntry:
    model = override_part(model, request.layers, request.slice)
    return PlanEntry(name=model.name, model=model, tests=_list_tests(model, request))


def _list_tests(model: HubModel, request: RunRequest) -> tuple[str, ...]:
    formats = (request.subject, model.name, model.checkpoint_format)
    return list_expected_tests(*formats, deep=request.deep, served=request.consumer is not None)
