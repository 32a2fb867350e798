"""Failed requests to GitHub: whether to send them again, and the error that people read."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import httpx
from githubkit.exception import GitHubException, RateLimitExceeded, RequestFailed, RequestTimeout
from githubkit.exception import RequestError as TransportError

from ci.certificates import SHARED
from ci.errors import InfrastructureError, RequestError
from ci.github.api import ConflictError, NotFoundError

if TYPE_CHECKING:
    from ci.errors import HubTestsError
    from ci.github.api import ApiSettings

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
TRANSIENT_STATUSES = frozenset({500, 502, 503, 504})


def retry_delay(error: GitHubException, method: str, attempt: int, settings: ApiSettings) -> float | None:
    """Return the seconds to wait before the next attempt, None to give up.

    `attempt` counts from 0. A rate limit is waited out as GitHub asks, other failures with backoff and jitter. A POST
    is repeated only if GitHub surely did not carry it out: a comment that appears twice is worse than a missing one.
    """
    if attempt >= settings.max_retries:
        return None
    if (rate_limit := _rate_limit_seconds(error)) is not None:
        return rate_limit + random.uniform(0, 1) if rate_limit <= settings.max_wait else None  # noqa: S311
    backoff = settings.first_backoff * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311
    return backoff if _may_repeat(error, method) else None


def to_hub_tests_error(error: GitHubException, method: str, url: str) -> HubTestsError:
    """Convert to an error of one line: what was asked, what GitHub answered, what to do."""
    asked = f"GitHub: {method} {url}"
    if (rate_limit := _rate_limit_seconds(error)) is not None:
        return InfrastructureError(f"{asked}: rate limit, it ends in {rate_limit:.0f} s: run again later")
    if isinstance(error, RequestFailed):
        return _refusal(error, asked)
    if isinstance(error, RequestTimeout):
        return InfrastructureError(f"{asked}: no answer in time: run again later")
    cause = error.exc if isinstance(error, TransportError) else error
    fix = f"name its authority in {SHARED}" if "CERTIFICATE_VERIFY" in str(cause) else "check the network to the API"
    return InfrastructureError(f"{asked}: {type(cause).__name__}: {cause}: {fix}")


def _rate_limit_seconds(error: GitHubException) -> float | None:
    """Return the seconds that GitHub asks to wait, None if this is no rate limit."""
    if isinstance(error, RateLimitExceeded):
        return max(float(error.retry_after.total_seconds()), 0.0)
    if isinstance(error, RequestFailed) and error.response.status_code in (403, 429):
        limited = error.response.status_code == 429 or "rate limit" in _read_message(error).lower()
        return 60.0 if limited else None
    return None


def _may_repeat(error: GitHubException, method: str) -> bool:
    if isinstance(error, RequestFailed):
        return error.response.status_code in TRANSIENT_STATUSES and method in IDEMPOTENT_METHODS
    if isinstance(error, TransportError):
        never_arrived = isinstance(error.exc, httpx.ConnectError | httpx.ConnectTimeout)
        return never_arrived or method in IDEMPOTENT_METHODS
    return False


def _refusal(error: RequestFailed, asked: str) -> HubTestsError:
    status, message = error.response.status_code, _read_message(error)
    if status == 404:
        return NotFoundError(f"{asked}: not found, or the token may not see it")
    if status in (409, 422):
        return ConflictError(f"{asked}: {status}: {message}")
    if status in (401, 403):
        needed = error.response.headers.get("x-accepted-github-permissions", "")
        hint = f"the token needs {needed}" if needed else "check the permissions of the job"
        return RequestError(f"{asked}: {status}: {message}: {hint}")
    error_type = InfrastructureError if status >= 500 else RequestError
    return error_type(f"{asked}: {status}: {message}")


def _read_message(error: RequestFailed) -> str:
    try:
        answer = error.response.json()
    except ValueError:
        return "no explanation"
    message = answer.get("message", "") if isinstance(answer, dict) else ""
    return " ".join(str(message).split())[:300] or "no explanation"
