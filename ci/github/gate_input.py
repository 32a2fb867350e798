"""The input of the gate's decision: the comment, the facts that GitHub gives, and the settings of the repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci.github.event import CommentEvent
from ci.github.status_comment import CommentState, StartedRun
from ci.models import HubModel
from ci.report.history import Baseline
from ci.subjects.registry import SubjectName

WRITE_ROLES = frozenset({"write", "maintain", "admin"})
STANDARD_ROLES = WRITE_ROLES | {"none", "read", "triage"}


@dataclass(frozen=True)
class Role:
    """A user's permission: `name` is GitHub's `role_name`, `base` the standard permission behind a custom role."""

    name: str = "none"
    base: str = "none"

    @property
    def can_write(self) -> bool:
        """Whether this role may push to the repository."""
        return self.name in WRITE_ROLES or (self.name not in STANDARD_ROLES and self.base in WRITE_ROLES)


@dataclass(frozen=True)
class PullRequest:
    """A pull request. `head_repository` is None if the fork was deleted."""

    number: int
    is_open: bool
    head_sha: str
    head_repository: str | None
    repository: str

    @property
    def is_fork(self) -> bool:
        """Whether the head is in another repository than the base."""
        return self.head_repository != self.repository


@dataclass(frozen=True)
class GitHubFacts:
    """The answers of the API. `active_runs` are the started runs that have not ended."""

    role: Role
    pull: PullRequest
    active_runs: tuple[StartedRun, ...] = ()
    state: CommentState = field(default_factory=CommentState)


@dataclass(frozen=True)
class RepoSettings:
    """The repository's settings: the subject, and the only logins that may give commands (none: every writer).

    A subject may be `described` by a file of the default branch.
    """

    subject: SubjectName = "reference"
    allowed_logins: tuple[str, ...] = ()
    server_url: str = "https://github.com"
    described: bool = False


@dataclass(frozen=True)
class GateInput:
    """All that the decision depends on. `baseline` tells how long earlier runs took."""

    event: CommentEvent
    facts: GitHubFacts
    models: Mapping[str, HubModel]
    settings: RepoSettings = field(default_factory=RepoSettings)
    baseline: Baseline = field(default_factory=Baseline)
