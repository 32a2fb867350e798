"""What a failed request means: whether waiting helps, and how it reads for people."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import httpx
from githubkit.exception import GitHubException, RateLimitExceeded, RequestFailed, RequestTimeout
from githubkit.exception import RequestError as TransportError

from ci.errors import InfrastructureError, RequestError
from ci.github.api import ConflictError, NotFoundError

if TYPE_CHECKING:
    from ci.github.api import Api

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
PASSING = frozenset({500, 502, 503, 504})


class Patience:
    """Which failures are waited out, and for how long: rate limits as GitHub says, the rest with backoff and jitter."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def wait(self, error: GitHubException, method: str, attempt: int) -> float | None:
        """Seconds to wait before the next attempt, None to give up.

        A request that makes something is repeated only where GitHub surely did not carry it out: a comment that is
        made twice is worse than one that is found missing.
        """
        if attempt >= self._api.tries:
            return None
        if (limited := _rate_limit(error)) is not None:
            return limited + random.uniform(0, 1) if limited <= self._api.longest_wait else None  # noqa: S311
        backoff = self._api.first_wait * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311
        return backoff if _passing(error, method) else None


def _rate_limit(error: GitHubException) -> float | None:
    """Seconds that GitHub asks to wait, None where it is no rate limit."""
    if isinstance(error, RateLimitExceeded):
        return max(float(error.retry_after.total_seconds()), 0.0)
    if isinstance(error, RequestFailed) and error.response.status_code in (403, 429):
        return 60.0 if error.response.status_code == 429 or "rate limit" in _said(error).lower() else None
    return None


def _passing(error: GitHubException, method: str) -> bool:
    if isinstance(error, RequestFailed):
        return error.response.status_code in PASSING and method in REPEATABLE
    if isinstance(error, TransportError):
        return isinstance(error.exc, httpx.ConnectError | httpx.ConnectTimeout) or method in REPEATABLE
    return False


def plain(error: GitHubException, method: str, url: str) -> Exception:
    """One line for people: what was asked, what GitHub said, what to do."""
    asked = f"GitHub: {method} {url}"
    if (limited := _rate_limit(error)) is not None:
        return InfrastructureError(f"{asked}: rate limit, free again in {limited:.0f} s: run again later")
    if isinstance(error, RequestFailed):
        return _refusal(error, asked)
    if isinstance(error, RequestTimeout):
        return InfrastructureError(f"{asked}: no answer in time: run again later")
    cause = error.exc if isinstance(error, TransportError) else error
    return InfrastructureError(f"{asked}: {type(cause).__name__}: {cause}: is the API reachable?")


def _refusal(error: RequestFailed, asked: str) -> Exception:
    status, said = error.response.status_code, _said(error)
    if status == 404:
        return NotFoundError(f"{asked}: not found, or the token may not see it")
    if status in (409, 422):
        return ConflictError(f"{asked}: {status}: {said}")
    if status in (401, 403):
        needed = error.response.headers.get("x-accepted-github-permissions", "")
        hint = f": the token needs {needed}" if needed else ": look at the job's permissions"
        return RequestError(f"{asked}: {status}: {said}{hint}")
    kind = InfrastructureError if status >= 500 else RequestError
    return kind(f"{asked}: {status}: {said}")


def _said(error: RequestFailed) -> str:
    try:
        plain = error.response.json()
    except ValueError:
        return "no explanation"
    message = plain.get("message", "") if isinstance(plain, dict) else ""
    return " ".join(str(message).split())[:300] or "no explanation"
