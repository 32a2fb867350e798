"""The HTTP client of the Hub: pin a revision, list its files, read them whole or by range, with retries.

Nothing else reads data from the Hub. (The doctor asks whether it answers.)

The client uses huggingface_hub's session, so proxies and certificates are configured as usual. It follows redirects
itself: the token goes to the Hub's origin only, and the signed CDN URL of a file is kept for later ranges of that
file. A signed URL is valid for about an hour; an expired one is requested again.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import get_session

import ci
from ci.errors import InfrastructureError
from ci.hub.repository import RemoteFile, Repository, parse_repository
from ci.hub.responses import (
    RETRYABLE_ERRORS,
    TransientError,
    check_linked_file,
    check_range,
    explain_refusal,
    iter_body,
    raise_transient,
)
from ci.hub.retry import RetryPolicy, RetryState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ci.settings import Settings

T = TypeVar("T")
R = TypeVar("R")

STREAMS = 8
REDIRECTS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 5
MAX_LISTING = 64 * 1024**2


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked to stop
    """Raised inside a transfer that was asked to stop."""


class HubClient:
    """A client of the Hub at `settings.endpoint`, safe for many threads.

    `requests` counts those to the Hub's own origin (its rate limits count these), `received` the bytes of all bodies.
    """

    def __init__(self, settings: Settings, *, retry_policy: RetryPolicy | None = None) -> None:
        self.endpoint = settings.endpoint
        self.stop = threading.Event()
        self.requests = 0
        self.received = 0
        self.policy = retry_policy or RetryPolicy()
        self._token = settings.token
        self._count = threading.Lock()
        self._file_urls: dict[str, str] = {}
        self._url_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get_repository(self, model_id: str, revision: str | None) -> Repository:
        """Return the commit and files of `model_id` at a branch, tag or commit, with one request.

        Raises RequestError when the model or the revision does not exist or the token has no access.
        """
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        url = f"{self.endpoint}/api/models/{quote(model_id)}{at}?blobs=true"
        retry = self._start_retries(f"{model_id}{f' at {revision}' if revision else ''}")
        while True:
            try:
                with self._send_get(url, {}) as response:
                    self._raise_for_status(response, model_id, revision)
                    return parse_repository(self._read_bounded(response, url), model_id, what=url)
            except RETRYABLE_ERRORS as problem:
                retry.wait_or_raise(problem)

    def read_file(self, repository: Repository, path: str, *, limit: int) -> bytes:
        """Return a small file, checked against the size and digest in the listing."""
        file = repository.get_file(path)
        if file.size > limit:
            raise InfrastructureError(
                f"{repository.label(path)}: {file.size} bytes, the limit is {limit}; such a file is not supported"
            )
        content = self.read_range(repository, path, 0, file.size)
        if not file.matches(content):
            raise InfrastructureError(
                f"{repository.label(path)}: content does not match its digest; run the fetch again"
            )
        return content

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

        Chunks come in order; after a broken connection some may come again. The transfer continues where it broke.
        Raises InfrastructureError when no try is left or the server answers with another range, RequestError when the
        token has no access to the file.
        """
        at, end = span
        retry, direct = self._start_retries(repository.label(path)), True
        while at < end:
            start = at
            try:
                with self._open_range(repository, path, at, end) as response:
                    for chunk in self._iter_chunks(response, end - at, direct=direct):
                        if at + len(chunk) > end:
                            raise InfrastructureError(
                                f"{repository.label(path)}: the server sent too many bytes; does a proxy change them?"
                            )
                        sink(at, chunk)
                        at += len(chunk)
                        retry.reset()
                if at < end:
                    raise TransientError(f"the connection ended {end - at} bytes early")
            except RETRYABLE_ERRORS as problem:
                # A short count after a direct read does not say which bytes are right: read them again through httpx.
                at, direct = (start, False) if direct else (at, False)
                retry.wait_or_raise(problem)

    def map_parallel(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return the function's results in order; an error or Ctrl-C stops the other calls."""
        pool = ThreadPoolExecutor(STREAMS, "hub-map")
        try:
            return list(pool.map(function, items))
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.stop.clear()

    def sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted once `stop` is set."""
        if self.stop.wait(seconds):
            raise Interrupted

    def _start_retries(self, what: str) -> RetryState:
        return RetryState(self.policy, self.sleep, what=what, endpoint=self.endpoint)

    def _iter_chunks(self, response: Any, size: int, *, direct: bool = False) -> Iterator[bytes]:
        for chunk in iter_body(response, size, self.policy.timeout, direct=direct):
            if self.stop.is_set():
                raise Interrupted
            with self._count:
                self.received += len(chunk)
            yield chunk

    def _read_bounded(self, response: Any, url: str) -> bytes:
        """Read a whole body of unknown length, up to MAX_LISTING bytes."""
        content = bytearray()
        for chunk in self._iter_chunks(response, 0):
            content += chunk
            if len(content) > MAX_LISTING:
                raise InfrastructureError(
                    f"{url}: the answer is larger than the limit of {MAX_LISTING} bytes; is HF_ENDPOINT a Hub?"
                )
        return bytes(content)

    @contextmanager
    def _open_range(self, repository: Repository, path: str, begin: int, end: int) -> Iterator[Any]:
        """Open the response that carries exactly bytes [begin, end); its body is not read yet."""
        file = repository.get_file(path)
        whole = (begin, end) == (0, file.size)
        headers = {} if whole else {"Range": f"bytes={begin}-{end - 1}"}
        url = self._find_file_url(repository, file)
        for _ in range(MAX_REDIRECTS):
            with self._send_get(url, headers) as response:
                if response.status_code not in REDIRECTS:
                    self._check_file_response(repository, file, url, response)
                    check_range(response, (begin, end), file.size, repository.label(path))
                    yield response
                    return
                url = self._resolve_redirect(url, response)
        raise InfrastructureError(
            f"{repository.label(path)}: more than {MAX_REDIRECTS} redirects; check HF_ENDPOINT and any proxy"
        )

    def _find_file_url(self, repository: Repository, file: RemoteFile) -> str:
        """Return the URL of a file's bytes.

        For a file in LFS the Hub is asked once, by one thread, for its signed URL.
        """
        origin = f"{self.endpoint}/{quote(repository.model_id)}/resolve/{repository.commit}/{quote(file.path)}"
        if file.sha256 is None:
            return origin
        with self._url_locks[file.path]:
            if file.path not in self._file_urls:
                self._file_urls[file.path] = self._resolve_file_url(repository, file, origin)
            return self._file_urls[file.path]

    def _resolve_file_url(self, repository: Repository, file: RemoteFile, url: str) -> str:
        for _ in range(MAX_REDIRECTS):
            with self._send_get(url, {"Range": "bytes=0-0"}) as response:
                self._raise_for_status(response, repository.model_id, repository.commit)
                check_linked_file(response, repository, file)
                if response.status_code not in REDIRECTS:
                    return url
                url = self._resolve_redirect(url, response)
            if not self._is_hub_url(url):
                return url
        raise InfrastructureError(
            f"{repository.label(file.path)}: more than {MAX_REDIRECTS} redirects; check HF_ENDPOINT and any proxy"
        )

    def _check_file_response(self, repository: Repository, file: RemoteFile, url: str, response: Any) -> None:
        """Raise for a refused file.

        A refusal by the Hub is final. One by the CDN means that the signed URL expired: it is forgotten, so that the
        next try asks for another.
        """
        if self._is_hub_url(url):
            self._raise_for_status(response, repository.model_id, repository.commit)
        raise_transient(response)
        if response.status_code >= 400:
            with self._url_locks[file.path]:
                if self._file_urls.get(file.path) == url:
                    del self._file_urls[file.path]
            raise TransientError(f"HTTP {response.status_code} from {urlsplit(url).netloc}", wait=0.0)

    def _resolve_redirect(self, url: str, response: Any) -> str:
        target = urljoin(url, str(response.headers.get("Location", "")))
        if urlsplit(target).scheme not in {"https", urlsplit(url).scheme}:
            raise InfrastructureError(
                f"redirect from {urlsplit(url).netloc} to {target[:100]!r} refused: expected an https address"
            )
        return target

    @contextmanager
    def _send_get(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        to_hub = self._is_hub_url(url)
        with self._count:
            self.requests += to_hub
        sent = {"User-Agent": f"hub-tests/{ci.__version__}", "Accept-Encoding": "identity", **headers}
        if to_hub and self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        session: Any = get_session()
        timeout = self.policy.timeout
        with session.stream("GET", url, headers=sent, follow_redirects=False, timeout=timeout) as response:
            yield response

    def _is_hub_url(self, url: str) -> bool:
        return _parse_origin(url) == _parse_origin(self.endpoint)

    def _raise_for_status(self, response: Any, model_id: str, revision: str | None) -> None:
        raise_transient(response)
        if response.status_code >= 400:
            raise explain_refusal(response, self.endpoint, model_id, revision, has_token=bool(self._token))


def _parse_origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
