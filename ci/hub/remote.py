"""The only HTTP to the Hub: pin a revision, list its files, read them whole or by range, try again with patience.

The client is huggingface_hub's own session, so proxies and certificates are set up as people know it. Redirects are
followed by hand: the token goes to the Hub's origin and to no other, and the signed URL of a file on the CDN is kept
for the file's next ranges. It lives about an hour; one that has ended is asked for again.
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
from ci.hub.listing import RemoteFile, Repository, parse_repository
from ci.hub.patience import Patience, Retry
from ci.hub.responses import BROKEN, Transient, body, check_linked, check_range, raise_transient, refusal

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
    """The transfer was told to stop."""


class Hub:
    """One Hub behind `settings.endpoint`, for many threads at once.

    `requests` counts those to the Hub's own origin (what its rate limits count), `received` the bytes of all bodies.
    """

    def __init__(self, settings: Settings, *, patience: Patience | None = None) -> None:
        self.endpoint = settings.endpoint
        self.stop = threading.Event()
        self.requests = 0
        self.received = 0
        self._token = settings.token
        self._patience = patience or Patience()
        self._count = threading.Lock()
        self._places: dict[str, str] = {}
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def repository(self, model_id: str, revision: str | None) -> Repository:
        """Commit and files of `model_id` at a branch, tag or commit, in one request.

        Raises RequestError when the model or the revision does not exist or is not for this token.
        """
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        url = f"{self.endpoint}/api/models/{quote(model_id)}{at}?blobs=true"
        retry = Retry(self, what=f"{model_id}{f' at {revision}' if revision else ''}")
        while True:
            try:
                with self._get(url, {}) as response:
                    self._refuse(response, model_id, revision)
                    return parse_repository(self._bounded(response, url), model_id, what=url)
            except BROKEN as problem:
                retry.pause(problem)

    def read(self, repository: Repository, path: str, *, limit: int) -> bytes:
        """A small file, whole, checked against the size and digest in the listing."""
        file = repository.file(path)
        if file.size > limit:
            raise InfrastructureError(f"{repository.label(path)}: {file.size} bytes, the cap is {limit}; refused")
        content = self.read_range(repository, path, 0, file.size)
        if not file.matches(content):
            raise InfrastructureError(f"{repository.label(path)}: content does not match its digest; fetch it again")
        return content

    def read_range(self, repository: Repository, path: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file, in memory."""
        content = bytearray(end - begin)

        def sink(at: int, chunk: bytes) -> None:
            content[at - begin : at - begin + len(chunk)] = chunk

        self.stream(repository, path, (begin, end), sink)
        return bytes(content)

    def stream(
        self, repository: Repository, path: str, span: tuple[int, int], sink: Callable[[int, bytes], object]
    ) -> None:
        """Bytes [begin, end) of a file, given to `sink(offset in the file, chunk)`, in order but for repeats.

        A broken connection goes on where it broke. Raises InfrastructureError when the patience ends or the server
        answers with anything but that range, RequestError when the file is not for this token.
        """
        at, end = span
        retry, direct = Retry(self, what=repository.label(path)), True
        while at < end:
            start = at
            try:
                with self._open(repository, path, at, end) as response:
                    for chunk in self._chunks(response, end - at, direct=direct):
                        if at + len(chunk) > end:
                            raise InfrastructureError(f"{repository.label(path)}: the server sent more than asked for")
                        sink(at, chunk)
                        at += len(chunk)
                        retry.progress()
                if at < end:
                    raise Transient(f"connection ended {end - at} bytes early")
            except BROKEN as problem:
                # Only what came through the HTTP library is known to be in its place if the count was short.
                at, direct = (start, False) if direct else (at, False)
                retry.pause(problem)

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The function's results in order, a few calls at a time. After a failure, or Ctrl-C, the others stop."""
        pool = ThreadPoolExecutor(STREAMS, "hub-each")
        try:
            return list(pool.map(function, items))
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.stop.clear()

    def wait(self, seconds: float) -> None:
        """Sleep unless told to stop."""
        if self.stop.wait(seconds):
            raise Interrupted

    @property
    def patience(self) -> Patience:
        """How often and how long to try."""
        return self._patience

    def _chunks(self, response: Any, size: int, *, direct: bool = False) -> Iterator[bytes]:
        for chunk in body(response, size, self._patience.timeout, direct=direct):
            if self.stop.is_set():
                raise Interrupted
            with self._count:
                self.received += len(chunk)
            yield chunk

    def _bounded(self, response: Any, url: str) -> bytes:
        """A whole body of unknown length, up to a cap."""
        content = bytearray()
        for chunk in self._chunks(response, 0):
            content += chunk
            if len(content) > MAX_LISTING:
                raise InfrastructureError(f"{url}: the Hub's answer is over {MAX_LISTING} bytes")
        return bytes(content)

    @contextmanager
    def _open(self, repository: Repository, path: str, begin: int, end: int) -> Iterator[Any]:
        """The response that carries exactly bytes [begin, end) of the file; its body is not read yet."""
        file = repository.file(path)
        whole = (begin, end) == (0, file.size)
        headers = {} if whole else {"Range": f"bytes={begin}-{end - 1}"}
        url = self._place(repository, file)
        for _ in range(MAX_REDIRECTS):
            with self._get(url, headers) as response:
                if response.status_code not in REDIRECTS:
                    self._check_place(repository, file, url, response)
                    check_range(response, (begin, end), file.size, repository.label(path))
                    yield response
                    return
                url = self._redirect(url, response)
        raise InfrastructureError(f"{repository.label(path)}: more than {MAX_REDIRECTS} redirects")

    def _place(self, repository: Repository, file: RemoteFile) -> str:
        """Where to get a file's bytes. For one in LFS the Hub is asked once, by one thread, for its signed URL."""
        origin = f"{self.endpoint}/{quote(repository.model_id)}/resolve/{repository.commit}/{quote(file.path)}"
        if file.sha256 is None:
            return origin
        with self._asking[file.path]:
            if file.path not in self._places:
                self._places[file.path] = self._locate(repository, file, origin)
            return self._places[file.path]

    def _locate(self, repository: Repository, file: RemoteFile, url: str) -> str:
        for _ in range(MAX_REDIRECTS):
            with self._get(url, {"Range": "bytes=0-0"}) as response:
                self._refuse(response, repository.model_id, repository.commit)
                check_linked(response, repository, file)
                if response.status_code not in REDIRECTS:
                    return url
                url = self._redirect(url, response)
            if not self._is_ours(url):
                return url
        raise InfrastructureError(f"{repository.label(file.path)}: more than {MAX_REDIRECTS} redirects")

    def _check_place(self, repository: Repository, file: RemoteFile, url: str, response: Any) -> None:
        """Refusals of the Hub are final; those of the CDN mean that the signed URL has ended: ask for another."""
        if self._is_ours(url):
            self._refuse(response, repository.model_id, repository.commit)
        raise_transient(response)
        if response.status_code >= 400:
            with self._asking[file.path]:
                if self._places.get(file.path) == url:
                    del self._places[file.path]
            raise Transient(f"HTTP {response.status_code} from {urlsplit(url).netloc}", wait=0.0)

    def _redirect(self, url: str, response: Any) -> str:
        target = urljoin(url, str(response.headers.get("Location", "")))
        if urlsplit(target).scheme not in {"https", urlsplit(url).scheme}:
            raise InfrastructureError(f"redirect from {urlsplit(url).netloc} to {target[:100]!r} refused")
        return target

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        ours = self._is_ours(url)
        with self._count:
            self.requests += ours
        sent = {"User-Agent": f"hub-tests/{ci.__version__}", "Accept-Encoding": "identity", **headers}
        if ours and self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        session: Any = get_session()
        timeout = self._patience.timeout
        with session.stream("GET", url, headers=sent, follow_redirects=False, timeout=timeout) as response:
            yield response

    def _is_ours(self, url: str) -> bool:
        return _origin(url) == _origin(self.endpoint)

    def _refuse(self, response: Any, model_id: str, revision: str | None) -> None:
        raise_transient(response)
        if response.status_code >= 400:
            raise refusal(response, self.endpoint, model_id, revision, has_token=bool(self._token))


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
