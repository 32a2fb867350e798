"""The HTTP client of the Hub: pin a revision, list its files, read them whole or by range, with retries.

Nothing else reads data from the Hub. (The doctor asks whether it answers.)

Redirects are followed here: a renamed model's to its new name, a file's to its signed CDN URL, which is kept for later
ranges of that file. A signed URL is valid for about an hour; an expired one is requested again. A small file's leads to
another address of the Hub, which differs from one file to the next by name and digest only: the first one tells those
of the others, and spares a request for each.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from ci.errors import InfrastructureError
from ci.hub.commits import request_commits
from ci.hub.connection import MAX_REDIRECTS, REDIRECTS, HubConnection, Interrupted, make_redirect_error
from ci.hub.listing import request_repository
from ci.hub.responses import (
    RETRYABLE_ERRORS,
    OddAnswerError,
    RefusedError,
    SlowError,
    TransientError,
    check_linked_file,
    check_range,
    raise_transient,
)
from ci.hub.retry import RetryPolicy, RetryState
from ci.hub.small_file_urls import SmallFileUrls
from ci.hub.stream_count import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci.hub.commits import HubCommit
    from ci.hub.repository import RemoteFile, Repository
    from ci.settings import Settings

__all__ = ["HubClient", "Interrupted"]

T = TypeVar("T")
R = TypeVar("R")

PARALLEL_CALLS = 8
MAX_COMMITS = 10_000
MALFORMED_TRIES = 3
"""How often a file that arrives whole but malformed is read."""


class HubClient:
    """A client of the Hub at `settings.endpoint` for one fetch, safe for many threads."""

    def __init__(self, settings: Settings, *, retry_policy: RetryPolicy | None = None) -> None:
        self.endpoint = settings.endpoint
        self.limits = settings.network
        self.policy = retry_policy or RetryPolicy()
        self._connection = HubConnection(settings)
        self.stop = self._connection.stop
        self._file_urls: dict[str, str] = {}
        self._small_file_urls = SmallFileUrls()
        self._url_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @property
    def requests(self) -> int:
        """The number of requests to the Hub's own origin, which its rate limits count."""
        return self._connection.requests

    @property
    def received(self) -> int:
        """The bytes of all bodies."""
        return self._connection.received

    def measure(self) -> Counts:
        """Return what was measured so far, with the processor time of this process."""
        connection = self._connection
        return Counts(connection.received, time.process_time(), connection.reads, connection.late)

    def get_repository(self, model_id: str, revision: str | None) -> Repository:
        """Return the commit and files of `model_id` at a branch, tag or commit, with one request.

        A renamed model costs one more. Raises RequestError when the model or the revision does not exist or the token
        has no access.
        """
        retry = self._start_retries(f"{model_id}{f' at {revision}' if revision else ''}")
        while True:
            try:
                return request_repository(self._connection, model_id, revision)
            except RETRYABLE_ERRORS as problem:
                retry.wait_or_raise(problem)

    def list_commits(self, model_id: str, revision: str, until: str) -> tuple[HubCommit, ...]:
        """Return the commits from a revision back to the commit `until`, or to the first one; newest first."""
        retry = self._start_retries(f"{model_id} at {revision}")
        found: tuple[HubCommit, ...] = ()
        page: str | None = None
        while True:
            try:
                commits, page = request_commits(self._connection, model_id, revision, page)
            except RETRYABLE_ERRORS as problem:
                retry.wait_or_raise(problem)
                continue
            found += commits
            if page is None or until in {commit.id for commit in commits} or len(found) > MAX_COMMITS:
                return found

    def read_file(self, repository: Repository, path: str, *, limit: int) -> bytes:
        """Return a small file, checked against the size and digest in the listing."""
        file = repository.get_file(path)
        if file.size > limit:
            raise InfrastructureError(
                f"{repository.label(path)}: {file.size} bytes, the limit is {limit}; such a file is not supported"
            )
        retry = self._start_retries(repository.label(path))
        while True:
            content = self.read_range(repository, path, 0, file.size)
            if file.matches(content):
                return content
            self.forget_file_url(path)
            retry.wait_or_raise(OddAnswerError("content does not match its digest"))

    def read_range(self, repository: Repository, path: str, begin: int, end: int) -> bytes:
        """Return bytes [begin, end) of a file."""
        content = bytearray(end - begin)

        def sink(at: int, chunk: bytes) -> None:
            content[at - begin : at - begin + len(chunk)] = chunk

        self.stream_range(repository, path, (begin, end), sink)
        return bytes(content)

    def stream_range(
        self, repository: Repository, path: str, span: tuple[int, int], sink: Callable[[int, bytes], object]
    ) -> None:
        """Pass bytes [begin, end) of a file to `sink(offset in the file, chunk)`.

        Chunks come in order; after a broken connection some may come again, and only the last ones are right. The
        transfer continues where it broke. Raises InfrastructureError when no try is left, RequestError when the token
        has no access to the file.
        """
        at, end = span
        retry, direct = self._start_retries(repository.label(path)), True
        while at < end:
            start = at
            try:
                with self._open_range(repository, path, at, end) as response:
                    for chunk in self._connection.iter_chunks(response, end - at, direct=direct):
                        if at + len(chunk) > end:
                            raise OddAnswerError("the server sent too many bytes; does a proxy change them?")
                        sink(at, chunk)
                        at += len(chunk)
                if at < end:
                    error = TransientError if "Content-Length" in response.headers else OddAnswerError
                    raise error(f"the connection ended {end - at} bytes early")
            except RETRYABLE_ERRORS as problem:
                if at - start >= self.limits.minimum_rate and not isinstance(problem, SlowError):
                    retry.reset()
                # A short count after a direct read does not say which bytes are right: read them again through httpx.
                if direct or isinstance(problem, OddAnswerError):
                    at = start
                direct = False
                if isinstance(problem, OddAnswerError):
                    self.forget_file_url(path)
                retry.wait_or_raise(problem)

    def repeat_if_malformed(self, read: Callable[[], T], what: str) -> T:
        """Call `read` again after a RefusedError, for a file that arrives whole but malformed.

        That may be the network's doing. If it stays it is the file's: raises the RefusedError's own error.
        """
        policy = replace(self.policy, tries=min(MALFORMED_TRIES, self.policy.tries))
        retry = RetryState(policy, self.sleep, what=what, endpoint=self.endpoint)
        while True:
            try:
                return read()
            except RefusedError as problem:
                retry.wait_or_raise(problem)

    def map_parallel(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return the function's results in order; an error or Ctrl-C stops the other calls."""
        pool = ThreadPoolExecutor(min(PARALLEL_CALLS, self.limits.streams), "hub-map")
        try:
            return list(pool.map(function, items))
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.stop.clear()

    def is_served_by_hub(self, file: RemoteFile) -> bool:
        """Return whether a file's ranges are served by the Hub itself, as far as known."""
        return file.sha256 is None and file.path not in self._file_urls

    def forget_file_url(self, path: str, url: str | None = None) -> None:
        """Forget a file's address if it is `url`, so that the Hub is asked again."""
        with self._url_locks[path]:
            known = self._file_urls.get(path)
            if url is None or known == url:
                self._file_urls.pop(path, None)
            if known is None:
                self._small_file_urls.stop_guessing()

    def close_watch(self) -> None:
        """End the thread that watches over requests, once none is running."""
        self._connection.close_watch()

    def sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted once `stop` is set."""
        self._connection.sleep(seconds)

    def _start_retries(self, what: str) -> RetryState:
        return RetryState(self.policy, self.sleep, what=what, endpoint=self.endpoint)

    @contextmanager
    def _open_range(self, repository: Repository, path: str, begin: int, end: int) -> Iterator[Any]:
        """Open the response that carries exactly bytes [begin, end); its body is not read yet."""
        file = repository.get_file(path)
        whole = (begin, end) == (0, file.size)
        headers = {} if whole else {"Range": f"bytes={begin}-{end - 1}"}
        url = self._find_file_url(repository, file)
        for _ in range(MAX_REDIRECTS):
            with self._connection.open(url, headers) as response:
                if response.status_code not in REDIRECTS:
                    self._check_file_response(repository, file, url, response)
                    check_range(response, (begin, end), file.size)
                    yield response
                    return
                url = self._follow_file_redirect(repository, file, url, response)
        raise make_redirect_error()

    def _follow_file_redirect(self, repository: Repository, file: RemoteFile, url: str, response: Any) -> str:
        """Return where a file's bytes are; a URL outside the Hub is kept for the file's other ranges."""
        if self._connection.is_hub_url(url):
            check_linked_file(response, repository, file)
        target = self._connection.resolve_redirect(url, response)
        if not self._connection.is_hub_url(target):
            self._file_urls[file.path] = target
        elif self._connection.is_hub_url(url):
            self._small_file_urls.learn(file, target)
        return target

    def _find_file_url(self, repository: Repository, file: RemoteFile) -> str:
        """Return the URL of a file's bytes.

        For a file in LFS the Hub is asked once, by one thread, for its signed URL. Of any other file the first range
        tells whether there is one.
        """
        known = self._file_urls.get(file.path)
        if known is not None:
            return known
        origin = f"{self.endpoint}/{quote(repository.hub_id)}/resolve/{repository.commit}/{quote(file.path)}"
        if file.sha256 is None:
            return self._small_file_urls.guess(file) or origin
        with self._url_locks[file.path]:
            return self._file_urls.get(file.path) or self._resolve_file_url(repository, file, origin)

    def _resolve_file_url(self, repository: Repository, file: RemoteFile, url: str) -> str:
        for _ in range(MAX_REDIRECTS):
            with self._connection.open(url, {"Range": "bytes=0-0"}) as response:
                self._connection.raise_for_status(response, repository.model_id, repository.commit)
                check_linked_file(response, repository, file)
                if response.status_code not in REDIRECTS:
                    return url
                url = self._follow_file_redirect(repository, file, url, response)
            if not self._connection.is_hub_url(url):
                return url
        raise make_redirect_error()

    def _check_file_response(self, repository: Repository, file: RemoteFile, url: str, response: Any) -> None:
        """Raise for a refused file.

        A refusal by the Hub is final. One by the CDN means that the signed URL expired, one of a guessed address that
        it is another: it is forgotten, so that the next try asks for it.
        """
        if self._connection.is_hub_url(url) and url != self._small_file_urls.guess(file):
            self._connection.raise_for_status(response, repository.model_id, repository.commit)
        raise_transient(response)
        if response.status_code >= 400:
            self.forget_file_url(file.path, url)
            raise TransientError(f"HTTP {response.status_code} from {urlsplit(url).netloc}", wait=0.0)
