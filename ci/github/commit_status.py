"""The one status of a commit, decided from every run's results there. docs/status.md has the rules as a table.

The truth is `commit_results`: what each run found at the commit. The comment and the status only show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ci.github.commit_results import ModelResult, find_standing
from ci.models import describe_override
from ci.report.escape import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.github.client import Client

CONTEXT = "hub-tests"
"""The name of the status: what branch protection requires."""

MAX_DESCRIPTION_CHARS = 140
StatusState = Literal["pending", "success", "failure", "error"]


@dataclass(frozen=True)
class RunUnderWay:
    """A run at the commit whose results are not there yet; `models` is empty if they are not known."""

    run_id: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommitStatus:
    """The decision, and all that it names: models in the order of their results, runs under way."""

    state: StatusState
    description: str
    failed: tuple[ModelResult, ...] = ()
    neutral: tuple[ModelResult, ...] = ()
    passed: tuple[ModelResult, ...] = ()
    missing: tuple[str, ...] = ()
    under_way: tuple[RunUnderWay, ...] = ()
    problem: str = ""
    refused: tuple[ModelResult, ...] = ()


def decide_status(
    required: Sequence[str],
    results: Sequence[ModelResult],
    under_way: Sequence[RunUnderWay] = (),
    problem: str = "",
    left_out: Sequence[str] = (),
) -> CommitStatus:
    """Decide the status of a commit.

    `required` are the models of the policy. `problem` says why the facts may be incomplete: then it is no success.
    `left_out` are models that the subject is known to refuse: they and a known refusal block nothing and prove nothing.
    """
    standing = find_standing(results)
    failed = tuple(result for result in standing if result.verdict == "failed")
    refused = tuple(result for result in standing if result.verdict == "neutral" and result.refused_as_known)
    neutral = tuple(result for result in standing if result.verdict == "neutral" and not result.refused_as_known)
    passed = tuple(result for result in standing if result.verdict == "passed")
    whole = {result.model for result in (*failed, *neutral, *passed) if result.is_of_registry}
    missing = tuple(name for name in required if name not in whole | {r.model for r in (*failed, *neutral)})
    state = _decide_state(failed, neutral, passed, missing, under_way, problem)
    if state == "pending" and refused and not (passed or missing or under_way):
        state = "error"  # nothing more is to come, and nothing was proved
    known = tuple(dict.fromkeys((*(result.model for result in refused), *left_out)))
    told = f"refused, as known: {_join(known)}" if known else ""
    parts = [
        f"running: {_name_runs(under_way)}" if under_way else "",
        _name_results("failed", failed),
        _name_results("no answer", neutral),
        f"cannot tell: {problem}" if problem else "",
        f"no result yet: {_join(missing)}" if missing else "",
        told,
    ]
    if state == "success":
        parts = [_name_results(f"{_count(passed)} passed", passed), told]
    elif not any(parts):
        parts = ["no result yet"]
    description = one_line("; ".join(part for part in parts if part), MAX_DESCRIPTION_CHARS)
    return CommitStatus(state, description, failed, neutral, passed, missing, tuple(under_way), problem, refused)


def set_status(client: Client, sha: str, state: StatusState, description: str, target_url: str) -> None:
    """Set the status `hub-tests` on `sha`; it replaces an earlier one."""
    body = {"state": state, "context": CONTEXT, "description": one_line(description, MAX_DESCRIPTION_CHARS)}
    client.send(
        "POST", f"/statuses/{sha}", body=body | ({"target_url": target_url} if target_url else {}), repeatable=True
    )


def _decide_state(
    failed: Sequence[ModelResult],
    neutral: Sequence[ModelResult],
    passed: Sequence[ModelResult],
    missing: Sequence[str],
    under_way: Sequence[RunUnderWay],
    problem: str,
) -> StatusState:
    if under_way:
        return "pending"
    if failed:
        return "failure"
    if neutral or problem:
        return "error"
    return "success" if passed and not missing else "pending"


def _name_results(word: str, results: Sequence[ModelResult]) -> str:
    names = [r.model if r.is_of_registry else f"{r.model} ({describe_override(r.layers, r.slice)})" for r in results]
    return f"{word}: {_join(names)}" if names else ""


def _name_runs(runs: Sequence[RunUnderWay]) -> str:
    """Name the models of the runs, or the runs if their models are not known."""
    names = dict.fromkeys(name for run in runs for name in run.models or (f"run {run.run_id}",))
    return _join(tuple(names))


def _join(names: Sequence[str], limit: int = 5) -> str:
    """Join the first names; a status has few characters."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _count(results: Sequence[ModelResult]) -> str:
    number = len({result.model for result in results})
    return f"{number} model{'' if number == 1 else 's'}"
