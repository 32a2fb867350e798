"""Requests to the Hub and to where it redirects: token, counters, redirects, and the limits on time.

huggingface_hub's session sends them, so proxies and certificates are configured as usual. The token goes to the Hub's
origin only.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from huggingface_hub import get_session

import ci
from ci.errors import InfrastructureError
from ci.hub.header_watch import HeaderWatch
from ci.hub.responses import (
    OddAnswerError,
    RefusedError,
    SlowError,
    TransientError,
    explain_refusal,
    iter_body,
    looks_like_hub,
    raise_transient,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.settings import Settings

REDIRECTS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 5
LOOK_EVERY = 8
"""Of so many reads one is looked at: with TLS a read brings 16 KB at most, and a look is a call of the system."""
HEADER_TIMEOUTS = 2
"""An answer's status and headers may take this many times the timeout, with all waits in between."""


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked to stop
    """Raised inside a transfer that was asked to stop."""


class HubConnection:
    """Connections for one fetch, safe for many threads.

    `requests` counts those to the Hub's own origin (its rate limits count these), `received` the bytes of all bodies.
    Of bodies, one in a few `reads` is looked at: a `late` one found its bytes waiting.
    """

    def __init__(self, settings: Settings) -> None:
        self.endpoint, self.limits = settings.endpoint, settings.network
        self.stop = threading.Event()
        self.requests = 0
        self.received = 0
        self.reads = 0
        self.late = 0
        self._token = settings.token
        self._count = threading.Lock()
        self._watch = HeaderWatch()
        self._latency = math.inf
        """The shortest time in seconds from a request to its headers."""
        self._deadline = time.monotonic() + self.limits.deadline

    @contextmanager
    def open(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        """Send a GET request and yield the response, its body unread."""
        to_hub = self.is_hub_url(url)
        with self._count:
            self.requests += to_hub
        sent = {"User-Agent": f"hub-tests/{ci.__version__}", "Accept-Encoding": "identity", **headers}
        if to_hub and self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        left = self._check_deadline()
        timeout = min(self.limits.timeout, left)
        session: Any = get_session()
        started = time.monotonic()
        with ExitStack() as stack:
            stream = session.stream("GET", url, headers=sent, follow_redirects=False, timeout=timeout)
            try:
                with self._watch.limit(min(HEADER_TIMEOUTS * timeout, left)):
                    response = stack.enter_context(stream)
            except (ValueError, RuntimeError) as error:  # a URL that cannot be sent, a session that was just closed
                raise TransientError(f"{type(error).__name__}: {str(error)[:200]}") from None
            self._latency = min(self._latency, time.monotonic() - started)
            yield response

    def iter_chunks(self, response: Any, size: int, *, direct: bool = False) -> Iterator[bytes]:
        """Yield the body, of `size` bytes where that is known.

        Raises SlowError when it comes more slowly than the minimum rate, Interrupted once `stop` is set.
        """
        since, arrived = time.monotonic(), 0
        latency = min(self._latency, self.limits.timeout)
        body = iter_body(response, size, self.limits.timeout, direct=direct, latency=latency)
        for number, chunk in enumerate(body):
            if self.stop.is_set():
                raise Interrupted
            with self._count:
                self.received += len(chunk)
            yield chunk
            arrived += len(chunk)
            if number % LOOK_EVERY == 0 and 0 < arrived < size:
                self._look_at_read(response)
            self._check_deadline()
            seconds = time.monotonic() - since
            if seconds >= self.limits.timeout:
                if arrived < self.limits.minimum_rate * seconds:
                    raise SlowError(f"only {arrived} bytes came in {seconds:.0f} s")
                since, arrived = time.monotonic(), 0

    def _look_at_read(self, response: Any) -> None:
        """Count whether the next bytes of a body are there before anybody asks for them."""
        stream = response.extensions.get("network_stream")
        if stream is not None:
            late = bool(stream.get_extra_info("is_readable"))
            with self._count:
                self.reads, self.late = self.reads + 1, self.late + late

    def resolve_redirect(self, url: str, response: Any) -> str:
        """Return the absolute URL that a redirect names. Raises OddAnswerError for anything but a usable one."""
        location = str(response.headers.get("Location", ""))
        here = urlsplit(url)
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            usable = bool(parts.hostname) and (parts.port is None or parts.port > 0) and target.isprintable()
        except ValueError:
            usable = False
        if not location or not usable:
            raise OddAnswerError(f"{here.netloc} redirects to {location[:100]!r}, which is refused: not a valid URL")
        if parts.scheme not in {"https", here.scheme}:
            raise OddAnswerError(f"redirect from {here.netloc} to {target[:100]!r} refused: expected an https address")
        return target

    def is_hub_url(self, url: str) -> bool:
        """Return whether a URL is on the Hub's own origin."""
        return parse_origin(url) == parse_origin(self.endpoint)

    def raise_for_status(self, response: Any, model_id: str, revision: str | None) -> None:
        """Raise for a refused request. One that does not look like the Hub's own may pass."""
        raise_transient(response)
        if response.status_code >= 400:
            error = explain_refusal(response, self.endpoint, model_id, revision, has_token=bool(self._token))
            raise error if looks_like_hub(response) else RefusedError(error)

    def close_watch(self) -> None:
        """End the thread that watches over requests, once none is running."""
        self._watch.close()

    def sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted once `stop` is set."""
        if self.stop.wait(min(seconds, self._check_deadline())):
            raise Interrupted
        self._check_deadline()

    def _check_deadline(self) -> float:
        """Return the seconds that are left. Raises InfrastructureError when none are."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise InfrastructureError(
                f"{self.endpoint}: the fetch took longer than {round(self.limits.deadline, 1):g} s; run it again to "
                "continue (received data is kept), or raise HUB_TESTS_DEADLINE"
            )
        return left


def make_redirect_error() -> OddAnswerError:
    """Return the error for redirects that do not end."""
    return OddAnswerError(f"more than {MAX_REDIRECTS} redirects; check HF_ENDPOINT and any proxy")


def parse_origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
