"""The only HTTP to the Hub: pin a revision, list its files, read them whole or by range, try again with patience.

The client is huggingface_hub's own session, so proxies and certificates are set up as people know it. Redirects are
followed by hand: the token goes to the Hub's origin and to no other, and the signed URL of a file on the CDN is kept
for the file's next ranges. It lives about an hour; one that has ended is asked for again.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub.utils._http import get_session, parse_ratelimit_headers

import ci
from ci.errors import HubTestsError, InfrastructureError, RequestError
from ci.hub.listing import RemoteFile, Repository, parse_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci.settings import Settings

REDIRECTS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 5
MAX_LISTING = 64 * 1024**2
MAX_WAIT = 600.0
TRANSPORT: tuple[type[Exception], ...] = tuple(
    importlib.import_module(name).TransportError for name in ("httpx2", "httpx") if importlib.util.find_spec(name)
)
"""What a broken connection raises; huggingface_hub moved from httpx to httpx2 with its version 2."""


@dataclass(frozen=True)
class Patience:
    """`tries` without a byte of progress end in an error; waits grow from `first` to `longest` seconds, with jitter.

    `timeout` is the silence in seconds after which a connection counts as broken.
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 30.0
    timeout: float = 30.0


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked to stop
    """The transfer was told to stop."""


class _Transient(Exception):  # noqa: N818 - caught here, never seen outside
    """Worth another try, after `wait` seconds if the server said so."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


BROKEN: tuple[type[Exception], ...] = (_Transient, *TRANSPORT)


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
        body = bytearray()
        retry = _Retry(self, what=f"{model_id}{f' at {revision}' if revision else ''}")
        while True:
            try:
                with self._get(url, {}) as response:
                    self._refuse(response, model_id, revision)
                    for chunk in self._chunks(response):
                        body += chunk
                        if len(body) > MAX_LISTING:
                            raise InfrastructureError(f"{url}: the Hub's answer is over {MAX_LISTING} bytes")
                return parse_repository(bytes(body), model_id, what=url)
            except BROKEN as problem:
                body.clear()
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
        content = bytearray()
        self.stream(repository, path, (begin, end), lambda _, chunk: content.extend(chunk))
        return bytes(content)

    def stream(
        self, repository: Repository, path: str, span: tuple[int, int], sink: Callable[[int, bytes], object]
    ) -> None:
        """Bytes [begin, end) of a file, given to `sink(offset in the file, chunk)` in order, each byte once.

        A broken connection goes on where it broke. Raises InfrastructureError when the patience ends or the server
        answers with anything but that range, RequestError when the file is not for this token.
        """
        at, end = span
        retry = _Retry(self, what=repository.label(path))
        while at < end:
            try:
                with self._open(repository, path, at, end) as response:
                    for chunk in self._chunks(response):
                        if at + len(chunk) > end:
                            raise InfrastructureError(f"{repository.label(path)}: the server sent more than asked for")
                        sink(at, chunk)
                        at += len(chunk)
                        retry.progress()
                if at < end:
                    raise _Transient(f"connection ended {end - at} bytes early")
            except BROKEN as problem:
                retry.pause(problem)

    def wait(self, seconds: float) -> None:
        """Sleep unless told to stop."""
        if self.stop.wait(seconds):
            raise Interrupted

    @property
    def patience(self) -> Patience:
        """How often and how long to try."""
        return self._patience

    def _chunks(self, response: Any) -> Iterator[bytes]:
        for chunk in response.iter_raw():
            if self.stop.is_set():
                raise Interrupted
            with self._count:
                self.received += len(chunk)
            yield chunk

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
                    _check_range(response, (begin, end), file.size, repository.label(path))
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
                _check_linked(response, repository, file)
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
        _raise_transient(response)
        if response.status_code >= 400:
            with self._asking[file.path]:
                if self._places.get(file.path) == url:
                    del self._places[file.path]
            raise _Transient(f"HTTP {response.status_code} from {urlsplit(url).netloc}", wait=0.0)

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
        _raise_transient(response)
        if response.status_code >= 400:
            raise _refusal(response, self.endpoint, model_id, revision, has_token=bool(self._token))


class _Retry:
    """The tries left for one thing that is asked of the Hub."""

    def __init__(self, hub: Hub, *, what: str) -> None:
        self._hub, self._what, self._failed = hub, what, 0

    def progress(self) -> None:
        """Bytes came: start counting anew."""
        self._failed = 0

    def pause(self, problem: Exception) -> None:
        """Wait before the next try; InfrastructureError when there is none."""
        self._failed += 1
        patience = self._hub.patience
        if self._failed >= patience.tries:
            text = str(problem) or type(problem).__name__
            hint = "check the network and try again (what arrived is kept)"
            raise InfrastructureError(f"{self._what}: {text}, {self._failed} times in a row; {hint}") from None
        wait = getattr(problem, "wait", None)
        if wait is None:
            wait = min(patience.first * 2 ** (self._failed - 1), patience.longest)
        self._hub.wait(wait * random.uniform(1.0, 1.5))  # noqa: S311 - jitter: runners behind one address come apart


def _raise_transient(response: Any) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _Transient(f"HTTP {status} from {urlsplit(str(response.url)).netloc}", wait=_told_to_wait(response))


def _told_to_wait(response: Any) -> float | None:
    """Seconds that a rate limit asks for (https://huggingface.co/docs/hub/rate-limits, RFC 9110 Retry-After)."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return min(limit.reset_in_seconds + 1.0, MAX_WAIT)
    after = response.headers.get("Retry-After", "").strip()
    return min(float(after), MAX_WAIT) if after.isdecimal() else None


def _refusal(response: Any, endpoint: str, model_id: str, revision: str | None, *, has_token: bool) -> HubTestsError:
    """The Hub's refusal as one line that says what to do (codes: `hf_raise_for_status` of huggingface_hub)."""
    code, status = response.headers.get("X-Error-Code"), response.status_code
    page = f"{endpoint}/{model_id}"
    if code == "GatedRepo" and not has_token:
        return RequestError(
            f"{model_id} is gated: accept its terms at {page}, then set HF_TOKEN to a token of that user"
        )
    if code == "GatedRepo":
        return RequestError(f"{model_id} is gated and the user of HF_TOKEN has no access: ask for it at {page}")
    if code == "RevisionNotFound":
        return RequestError(f"{model_id} has no revision {revision!r}: see {page}/commits")
    if response.headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
        return RequestError(f"{endpoint} does not know the token in HF_TOKEN: renew it, or unset it for public models")
    if code == "RepoNotFound" or status in (401, 404):
        hint = "the user of HF_TOKEN has no access" if has_token else "private: set HF_TOKEN"
        return RequestError(f"no model {model_id!r} at {endpoint} (or it is {hint}); names are 'owner/name'")
    return InfrastructureError(f"{model_id}: {endpoint} answered HTTP {status} {code or ''}".rstrip())


def _check_linked(response: Any, repository: Repository, file: RemoteFile) -> None:
    """The file behind the redirect must be the one that the listing named."""
    headers, where = response.headers, repository.label(file.path)
    if headers.get("X-Repo-Commit", repository.commit) != repository.commit:
        raise InfrastructureError(f"{where}: the Hub answered for commit {headers['X-Repo-Commit'][:60]!r}")
    if headers.get("X-Linked-Size", str(file.size)) != str(file.size):
        raise InfrastructureError(f"{where}: {headers['X-Linked-Size'][:30]} bytes, the listing said {file.size}")


def _check_range(response: Any, span: tuple[int, int], size: int, where: str) -> None:
    """Refuse, before its body is read, a response that does not carry exactly [begin, end) of `size` bytes."""
    begin, end = span
    status, headers = response.status_code, response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise InfrastructureError(f"{where}: the server compressed what was asked for as it is")
    if status == 200 and span != (0, size):
        raise InfrastructureError(f"{where}: the server ignored the Range header (HTTP 200): a proxy without ranges?")
    if status not in (200, 206):
        raise InfrastructureError(f"{where}: HTTP {status} instead of the file's bytes")
    told = headers.get("Content-Range", "")
    if status == 206 and told.replace(" ", "") != f"bytes{begin}-{end - 1}/{size}":
        raise InfrastructureError(f"{where}: asked for bytes {begin}-{end - 1}/{size}, answered {told[:80]!r}")
    length = headers.get("Content-Length", str(end - begin))
    if length != str(end - begin):
        raise _Transient(f"promised {length[:30]} bytes where {end - begin} were asked for")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
