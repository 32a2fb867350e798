"""The only HTTP to GitHub: one request with its retries, rate limits and pacing, and pages of them.

githubkit signs, sends and tells rate limits apart; `trouble.py` says what is retried and how failures read. Answers
are read into narrow records of ours, so that a field GitHub adds or leaves empty breaks nothing.
Limits: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api and
https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api (a second between writes).
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from githubkit import GitHub
from githubkit.exception import GitHubException
from githubkit.throttling import BaseThrottler

from ci.errors import InfrastructureError
from ci.github.trouble import Patience, plain
from ci.records import read_dict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping

    import httpx

    from ci.github.api import Api

T = TypeVar("T")

API_VERSION = "2022-11-28"
READS = frozenset({"GET", "HEAD"})
PAGE = 100


class Client:
    """Requests to one repository. Raises InfrastructureError when GitHub fails, RequestError when it refuses."""

    def __init__(
        self,
        api: Api,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.api = api
        self._github = GitHub(
            api.token or None,
            base_url=api.url.rstrip("/") + "/",
            timeout=api.timeout,
            http_cache=False,
            follow_redirects=False,
            user_agent="hub-tests",
            throttler=Pace(api.between_writes, sleep, clock),
            auto_retry=False,
            transport=transport,
        )
        self._patience = Patience(api)
        self._sleep = sleep

    def __enter__(self) -> Self:
        self._github.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._github.__exit__(*error)

    def get(self, kind: type[T], path: str, **params: str | int) -> T:
        """One answer of `/repos/{repository}{path}` as a record."""
        return read_dict(
            kind, self.send("GET", path, params=params), what=f"GitHub's {path}", error=InfrastructureError
        )

    def pages(self, kind: type[T], path: str, *, key: str | None = None, **params: str | int) -> Iterator[T]:
        """Every item of a listing; `key` names the list where the answer wraps it."""
        for page in range(1, 1000):
            answer = self.send("GET", path, params={**params, "per_page": PAGE, "page": page})
            items = answer.get(key) if key and isinstance(answer, dict) else answer
            if not isinstance(items, list):
                raise InfrastructureError(f"GitHub's {path}: expected a list, got {type(items).__name__}")
            for item in items:
                yield read_dict(kind, item, what=f"GitHub's {path}", error=InfrastructureError)
            if len(items) < PAGE:
                return

    def write(self, kind: type[T], method: str, path: str, body: Mapping[str, Any]) -> T:
        """Send `body` and read the answer as a record."""
        answer = self.send(method, path, body=body)
        return read_dict(kind, answer, what=f"GitHub's {path}", error=InfrastructureError)

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        """One request and its retries; the answer's JSON, None for no content."""
        return self.answer(method, path, params=params, body=body)[1]

    def answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> tuple[int, Any]:
        """Like `send`, with the status: some of GitHub's answers differ only in it (200 had it, 201 made it)."""
        url = f"/repos/{self.api.repository}{path}"
        for attempt in range(self.api.tries + 1):
            try:
                response = self._github.request(
                    method,
                    url,
                    params=dict(params or {}),
                    json=dict(body) if body is not None else None,
                    headers={"X-GitHub-Api-Version": API_VERSION},
                )
                return response.status_code, response.json() if response.content else None
            except GitHubException as error:
                wait = self._patience.wait(error, method, attempt)
                if wait is None:
                    raise plain(error, method, url) from None
                self._sleep(wait)
            except ValueError as error:
                raise InfrastructureError(f"GitHub's answer to {method} {url} cannot be read: {error}") from None
        raise AssertionError("the last attempt raises")


class Pace(BaseThrottler):  # type: ignore[misc]  # githubkit is not followed by mypy: it takes a minute
    """At least `interval` seconds between two writes."""

    def __init__(self, interval: float, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._interval = interval
        self._sleep = sleep
        self._clock = clock
        self._last = float("-inf")

    @contextmanager
    def acquire(self, request: httpx.Request) -> Generator[None, Any, Any]:
        """Wait until `request` may be sent."""
        if request.method not in READS:
            early = self._last + self._interval - self._clock()
            if early > 0:
                self._sleep(early)
            self._last = self._clock()
        yield

    @asynccontextmanager
    async def async_acquire(self, request: httpx.Request) -> AsyncGenerator[None, Any]:
        """As `acquire`; the client sends nothing asynchronously, githubkit's protocol asks for both."""
        with self.acquire(request):
            yield
