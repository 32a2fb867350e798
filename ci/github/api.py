"""How to reach GitHub, and the refusals that callers tell apart. Light: the client itself imports githubkit."""

from __future__ import annotations

from dataclasses import dataclass, field

from ci.errors import RequestError


class NotFoundError(RequestError):
    """GitHub says 404: it is not there, or the token may not know of it."""


class ConflictError(RequestError):
    """GitHub says 409 or 422 to a write that another writer was faster with."""


@dataclass(frozen=True)
class Api:
    """Where and as whom: the API's address, the token, `owner/name`, and how patient to be (seconds)."""

    repository: str
    token: str = field(default="", repr=False)
    url: str = "https://api.github.com"
    tries: int = 4
    longest_wait: float = 900.0
    first_wait: float = 1.0
    between_writes: float = 1.0
    timeout: float = 30.0
