"""The GitHub API client, the only HTTP to GitHub in this package: requests with retries and pacing, and pages.

githubkit authenticates, sends and recognises rate limits; `retry.py` decides what is repeated and words the errors.
Answers are read into narrow records, so that a field that GitHub adds or leaves out breaks nothing.
Limits: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api and
https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api (a second between writes).
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
from githubkit import GitHub
from githubkit.exception import GitHubException
from githubkit.throttling import BaseThrottler

from ci.errors import InfrastructureError, RequestError
from ci.github.retry import retry_delay, to_hub_tests_error
from ci.records import read_dict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping

    from ci.github.api import ApiSettings

T = TypeVar("T")

API_VERSION = "2022-11-28"
READ_METHODS = frozenset({"GET", "HEAD"})
PAGE_SIZE = 100
MAX_PAGES = 1000


class Client:
    """Requests to one repository. Raises InfrastructureError when GitHub fails, RequestError when it refuses."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self._github = GitHub(
            settings.token or None,
            base_url=settings.url.rstrip("/") + "/",
            timeout=settings.timeout,
            http_cache=False,
            follow_redirects=False,
            user_agent="hub-tests",
            throttler=WriteThrottler(settings.write_interval, sleep, clock),
            auto_retry=False,
            transport=transport,
        )
        self._sleep = sleep
        self._clock = clock
        self._transport = transport
        self._lost = 0.0

    def __enter__(self) -> Self:
        self._github.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._github.__exit__(*error)

    def get(self, kind: type[T], path: str, **params: str | int) -> T:
        """Get `/repos/{repository}{path}` as a record of `kind`."""
        return _read_answer(kind, self.send("GET", path, params=params), path)

    def paginate(self, kind: type[T], path: str, *, key: str | None = None, **params: str | int) -> Iterator[T]:
        """Yield every item of a listing; `key` names the list if the answer wraps it."""
        for page in range(1, MAX_PAGES):
            answer = self.send("GET", path, params={**params, "per_page": PAGE_SIZE, "page": page})
            items = answer.get(key) if key and isinstance(answer, dict) else answer
            if not isinstance(items, list):
                raise InfrastructureError(f"GitHub's {path}: expected a list, got {type(items).__name__}")
            for item in items:
                yield _read_answer(kind, item, path)
            if len(items) < PAGE_SIZE:
                return

    def write(self, kind: type[T], method: str, path: str, body: Mapping[str, Any]) -> T:
        """Send `body` and return the answer as a record of `kind`."""
        return _read_answer(kind, self.send(method, path, body=body), path)

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Send one request with its retries; return the answer's JSON, None for no content.

        With `repeatable` a POST is repeated too if it may have arrived: twice is as good as once.
        """
        return self.send_for_status(method, path, params=params, body=body, repeatable=repeatable)[1]

    def download(self, path: str, max_bytes: int) -> bytes:
        """Download what `path` redirects to, at most `max_bytes`; the token goes to GitHub's API only."""
        url = f"/repos/{self.settings.repository}{path}"
        response = self._request("GET", url)
        location = response.headers.get("location", "")
        if response.status_code != 302 or not location:
            raise InfrastructureError(f"GitHub: GET {url}: {response.status_code}, expected a redirect to the content")
        try:
            with (
                httpx.Client(timeout=self.settings.timeout, transport=self._transport) as plain,
                plain.stream("GET", location) as content,
            ):
                content.raise_for_status()
                return _read_at_most(content, max_bytes, url)
        except httpx.HTTPError as error:
            raise InfrastructureError(f"GitHub: GET {url}: the download failed: {type(error).__name__}") from None

    def send_for_status(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        repeatable: bool = False,
    ) -> tuple[int, Any]:
        """Send like `send` and return the HTTP status too.

        Some answers differ only in it: 200 if the thing existed already, 201 if it was created.
        """
        url = f"/repos/{self.settings.repository}{path}"
        try:
            response = self._request(method, url, params=params, body=body, repeatable=repeatable)
            return response.status_code, response.json() if response.content else None
        except ValueError as error:
            raise InfrastructureError(f"GitHub's answer to {method} {url} cannot be read: {error}") from None

    def _request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Send one request; repeat it while that may help and time is left."""
        for attempt in range(self.settings.max_retries + 1):
            began = self._clock()
            try:
                return self._github.request(
                    method,
                    url,
                    params=dict(params or {}),
                    json=dict(body) if body is not None else None,
                    headers={"X-GitHub-Api-Version": API_VERSION},
                )
            except GitHubException as error:
                self._lost += self._clock() - began
                delay = retry_delay(error, "PUT" if repeatable else method, attempt, self.settings)
                if delay is None or self._lost + delay > self.settings.max_wait:
                    raise to_hub_tests_error(error, method, url) from None
                self._lost += delay
                self._sleep(delay)
        raise AssertionError("the last attempt raises")


class WriteThrottler(BaseThrottler):  # type: ignore[misc]  # githubkit is not followed by mypy: it takes a minute
    """At least `interval` seconds between two writes."""

    def __init__(self, interval: float, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._interval = interval
        self._sleep = sleep
        self._clock = clock
        self._last_write = float("-inf")

    @contextmanager
    def acquire(self, request: httpx.Request) -> Generator[None, Any, Any]:
        """Wait until `request` may be sent."""
        if request.method not in READ_METHODS:
            remaining = self._last_write + self._interval - self._clock()
            if remaining > 0:
                self._sleep(remaining)
            self._last_write = self._clock()
        yield

    @asynccontextmanager
    async def async_acquire(self, request: httpx.Request) -> AsyncGenerator[None, Any]:
        """Wait like `acquire`. The client sends nothing asynchronously, but githubkit's protocol has both."""
        with self.acquire(request):
            yield


def _read_at_most(content: httpx.Response, max_bytes: int, url: str) -> bytes:
    read = bytearray()
    for chunk in content.iter_bytes():
        read += chunk
        if len(read) > max_bytes:
            raise RequestError(f"GitHub: GET {url}: more than {max_bytes} bytes")
    return bytes(read)


def _read_answer(kind: type[T], answer: Any, path: str) -> T:
    return read_dict(kind, answer, what=f"GitHub's {path}", error=InfrastructureError)
