"""What an HTTP response means: try again, refused for good, or exactly the requested bytes. Sends no requests.

An answer that no Hub gives (an ignored Range, HTML, a compressed file) comes from something in between and may pass, so
it is tried again like a broken connection.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ci.errors import GatedError, HubTestsError, InfrastructureError, RequestError
from ci.hub.repository import SHA256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci.hub.repository import RemoteFile, Repository

MAX_WAIT = 600.0
RATE_LIMIT = re.compile(r'"\w+"\s*;\s*r\s*=\s*(?P<remaining>\d{1,9})\s*;\s*t\s*=\s*(?P<seconds>\d{1,9})')
READ_SIZE = 256 * 1024
MIN_DIRECT_SIZE = 1024**2
"""Bytes of a body from which reading the socket directly may pay for a connection that cannot be reused."""
DIRECT_BYTES_PER_SECOND = 512 * 1024**2
"""Bytes of such a body for each second of latency: 15 MiB at 30 ms.

A new connection takes about three round trips; a request lasts about a second (`ci.hub.request_queue.SECONDS`).
"""
HUB_HEADERS = ("X-Error-Code", "X-Error-Message", "X-Request-Id")
"""The Hub's own refusals carry at least one of these."""


class TransientError(Exception):
    """A failure that may pass; `wait` is the number of seconds that the server asks to wait, if it does."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


class OddAnswerError(TransientError):
    """An answer that a Hub does not give, so something in between did; its bytes cannot be trusted."""


class SlowError(TransientError):
    """A connection that brings too few bytes; those that it brought are no progress."""


class RefusedError(TransientError):
    """A refusal that does not look like the Hub's own: `error` is raised when it stays."""

    def __init__(self, error: HubTestsError) -> None:
        super().__init__(str(error))
        self.error = error


def _list_retryable_errors() -> Iterator[type[Exception]]:
    yield TransientError
    for library, names in (
        ("httpx", ("TransportError", "InvalidURL")),
        ("httpcore", ("NetworkError", "TimeoutException", "ProtocolError")),
    ):
        for module in (library, f"{library}2"):  # huggingface_hub moved from httpx to httpx2 with its version 2
            if importlib.util.find_spec(module):
                yield from (getattr(importlib.import_module(module), name) for name in names)


RETRYABLE_ERRORS: tuple[type[Exception], ...] = tuple(_list_retryable_errors())
"""The exceptions of a broken connection."""


def iter_body(response: Any, size: int, timeout: float, *, direct: bool, latency: float = 0.0) -> Iterator[bytes]:
    """Yield the chunks of a body of `size` bytes; `latency` is the seconds of a round trip.

    httpx and h11 copy each 64 KiB through six layers of Python, which costs 2 s of CPU a gigabyte under the
    interpreter's lock. Once they have parsed the headers and returned their buffered bytes, a plain body is read from
    the connection itself (the documented extension `network_stream`, so proxies and TLS stay as configured).
    """
    chunks = response.iter_raw()
    first = next(chunks, b"")
    yield first
    missing = size - len(first)
    stream = response.extensions.get("network_stream")
    least = max(MIN_DIRECT_SIZE, DIRECT_BYTES_PER_SECOND * latency)
    if not direct or stream is None or missing < least or not _is_plain(response, size):
        yield from chunks
        return
    while missing:
        chunk = stream.read(min(missing, READ_SIZE), timeout=timeout)
        if not chunk:
            raise TransientError(f"the connection ended {missing} bytes early")
        missing -= len(chunk)
        yield chunk


def _is_plain(response: Any, size: int) -> bool:
    headers = response.headers
    return (
        response.http_version == "HTTP/1.1"
        and "Transfer-Encoding" not in headers
        and headers.get("Content-Length") == str(size)
    )


def raise_transient(response: Any) -> None:
    """Raise TransientError for a status that may change with time (408, 429, 5xx)."""
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise TransientError(
            f"HTTP {status} from {urlsplit(str(response.url)).netloc}", wait=_read_retry_wait(response)
        )


def _read_retry_wait(response: Any) -> float | None:
    """Return the seconds a rate limit asks for (https://huggingface.co/docs/hub/rate-limits, RFC 9110 Retry-After)."""
    limit = RATE_LIMIT.search(response.headers.get("RateLimit", ""))
    if limit and int(limit["remaining"]) == 0:
        return min(int(limit["seconds"]) + 1.0, MAX_WAIT)
    after = response.headers.get("Retry-After", "").strip()
    return min(float(after[:9]), MAX_WAIT) if after.isdecimal() else None


def explain_refusal(
    response: Any, endpoint: str, model_id: str, revision: str | None, *, has_token: bool
) -> HubTestsError:
    """Return the Hub's refusal as an error that says what to do.

    The codes are those of huggingface_hub's `hf_raise_for_status`.
    """
    code, status = response.headers.get("X-Error-Code"), response.status_code
    page = f"{endpoint}/{model_id}"
    if code == "GatedRepo" and not has_token:
        return GatedError(f"{model_id} is gated: accept its terms at {page}, then set HF_TOKEN to a token of that user")
    if code == "GatedRepo":
        return GatedError(f"{model_id} is gated and the user of HF_TOKEN has no access: request access at {page}")
    if code == "RevisionNotFound":
        return RequestError(f"{model_id} has no revision {revision!r}: see the list at {page}/commits")
    if response.headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
        return RequestError(
            f"{endpoint} does not accept the token in HF_TOKEN: create a new one, or unset it for public models"
        )
    if code == "RepoNotFound" or status in (401, 404):
        hint = "the user of HF_TOKEN has no access" if has_token else "private: set HF_TOKEN"
        return RequestError(f"no model {model_id!r} at {endpoint} (or it is {hint}); names are 'owner/name'")
    return InfrastructureError(f"{model_id}: {endpoint} answered HTTP {status} {code or ''}".rstrip())


def looks_like_hub(response: Any) -> bool:
    """Return whether a refusal carries a header of the Hub's own refusals."""
    return any(name in response.headers for name in HUB_HEADERS)


def check_linked_file(response: Any, repository: Repository, file: RemoteFile) -> None:
    """Raise OddAnswerError when the linked file is not the one in the listing."""
    headers = response.headers
    if headers.get("X-Repo-Commit", repository.commit) != repository.commit:
        raise OddAnswerError(f"the Hub answered for another commit, {headers['X-Repo-Commit'][:60]!r}")
    if headers.get("X-Linked-Size", str(file.size)) != str(file.size):
        raise OddAnswerError(f"the Hub now says {headers['X-Linked-Size'][:30]} bytes, its listing said {file.size}")
    linked = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
    if file.sha256 and SHA256.fullmatch(linked) and linked != file.sha256:
        raise OddAnswerError(f"the Hub now says digest {linked[:70]!r}, its listing said {file.sha256}")


def check_encoding(response: Any) -> None:
    """Raise OddAnswerError for a body that is compressed although nobody asked for that."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OddAnswerError("the server compressed the file; is a proxy changing the answer?")


def check_range(response: Any, span: tuple[int, int], size: int) -> None:
    """Raise OddAnswerError unless the response promises exactly [begin, end) of a file of `size` bytes."""
    begin, end = span
    status, headers = response.status_code, response.headers
    check_encoding(response)
    if status == 200 and span != (0, size):
        raise OddAnswerError(
            "the server ignored the Range header (HTTP 200): is a proxy without range support in between?"
        )
    if status not in (200, 206):
        raise OddAnswerError(f"HTTP {status} instead of the file's bytes; check HF_ENDPOINT and any proxy")
    content_range = headers.get("Content-Range", "")
    if status == 206 and content_range.replace(" ", "") != f"bytes{begin}-{end - 1}/{size}":
        raise OddAnswerError(
            f"asked for bytes {begin}-{end - 1}/{size}, the server answered {content_range[:80]!r}; "
            "is a proxy changing the answer?"
        )
    length = headers.get("Content-Length", str(end - begin))
    if length != str(end - begin):
        raise OddAnswerError(f"asked for {end - begin} bytes, the server announced {length[:30]}")
