"""Settings of the GitHub API client, and two errors that callers handle. Does not import githubkit."""

from __future__ import annotations

from dataclasses import dataclass, field

from ci.errors import RequestError


class NotFoundError(RequestError):
    """GitHub answered 404: the thing does not exist, or the token may not see it."""


class ConflictError(RequestError):
    """GitHub answered 409 or 422 to a write: another writer was faster."""


@dataclass(frozen=True)
class ApiSettings:
    """The repository (`owner/name`), the token, the API's address, and the retries. Times are in seconds.

    `max_wait` is the most time that one client loses to failed requests and rate limits, all together: less than the
    shortest time limit of a job. `first_backoff` is the wait after a first failure, `write_interval` the least time
    between two writes.
    """

    repository: str
    token: str = field(default="", repr=False)
    url: str = "https://api.github.com"
    max_retries: int = 4
    max_wait: float = 240.0
    first_backoff: float = 1.0
    write_interval: float = 1.0
    timeout: float = 30.0
