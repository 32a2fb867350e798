"""Comments, roles and pull requests for the tests of the gate and of its messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ci.github.event import CommentEvent
from ci.github.gate import GateDecision, decide
from ci.github.gate_input import GateInput, GitHubFacts, PullRequest, RepoSettings, Role
from ci.models import load_models
from ci.report.history import Baseline

HEAD, OLD = "1" * 40, "2" * 40


MODELS = load_models()


WRITE = Role("write", "write")


PULL = PullRequest(7, True, HEAD, "o/r", "o/r")


FORK = replace(PULL, head_repository="mallory/r")


DEFAULTS = tuple(name for name, model in MODELS.items() if "default" in model.groups)


def comment_event(body: str, **changes: Any) -> CommentEvent:
    """Return a comment of a member on pull request 7."""
    known = CommentEvent("created", "o/r", "main", 7, True, True, 11, "https://x", body, "alice", "User", "MEMBER")
    return replace(known, **changes)


def decide_on(
    body: str,
    *,
    facts: GitHubFacts | None = None,
    settings: RepoSettings | None = None,
    baseline: Baseline | None = None,
    **event: Any,
) -> GateDecision:
    """Decide on a comment; without other facts, a writer wrote it on a branch of the repository."""
    known = facts or GitHubFacts(WRITE, PULL)
    return decide(
        GateInput(comment_event(body, **event), known, MODELS, settings or RepoSettings(), baseline or Baseline())
    )
