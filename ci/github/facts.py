"""What the gate's decision rests on: who said what, what the API knows, what the repository was set up with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci.github.board import StartedRun, State
from ci.github.event import CommentEvent
from ci.models import HubModel
from ci.report.history import Baseline
from ci.subjects.registry import SubjectName

WRITERS = frozenset({"write", "maintain", "admin"})
STANDARD_ROLES = WRITERS | {"none", "read", "triage"}


@dataclass(frozen=True)
class Role:
    """Somebody's permission: `name` is `role_name`, `base` the permission that a custom role stands on."""

    name: str = "none"
    base: str = "none"

    @property
    def writes(self) -> bool:
        """Whether this role may push to the repository."""
        return self.name in WRITERS or (self.name not in STANDARD_ROLES and self.base in WRITERS)


@dataclass(frozen=True)
class PullRequest:
    """What the gate must know of a pull request. `head_repository` is None where the fork was deleted."""

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
class Facts:
    """What the API said. `active` are the started runs that have not come to an end."""

    role: Role
    pull: PullRequest
    active: tuple[StartedRun, ...] = ()
    state: State = field(default_factory=State)


@dataclass(frozen=True)
class House:
    """What the repository was set up with: the subject, and optionally the only logins that may command."""

    subject: SubjectName = "reference"
    allowed: tuple[str, ...] = ()
    server_url: str = "https://github.com"


@dataclass(frozen=True)
class Inquiry:
    """All that the decision rests on: who said what, what the API knows, what can be tested, what earlier runs took."""

    event: CommentEvent
    facts: Facts
    models: Mapping[str, HubModel]
    house: House = field(default_factory=House)
    baseline: Baseline = field(default_factory=Baseline)
